"""Ask Zendesk whom it takes us for: one call that shows whether the credentials are right.

https://developer.zendesk.com/api-reference/ticketing/users/users/#show-self
"""

from service.doctor.findings import SECONDS, Check, probe
from service.download.answers import Expected, Limits
from service.download.transfer import download
from service.resources import Resources
from service.zendesk.body import read_json

NAME = "zendesk"
_LIMITS = Limits(max_bytes=1024**2, seconds=2 * SECONDS, stall_seconds=2 * SECONDS)
_WITHOUT = "private attachments, and webhooks that only name a comment, end in failed"


async def check_zendesk(res: Resources) -> Check:
    """Look at the account and its credentials; raises nothing, and waits for seconds at most."""
    settings = res.settings
    if settings.account_url is None or res.credentials is None:
        advice = f"set ZENDESK_SUBDOMAIN, ZENDESK_EMAIL and ZENDESK_API_TOKEN: without them {_WITHOUT}"
        return Check(NAME, None, "there are no credentials", advice)
    names = "ZENDESK_OAUTH_TOKEN" if settings.zendesk_oauth_token else "ZENDESK_EMAIL and ZENDESK_API_TOKEN"
    place = "ZENDESK_URL" if settings.zendesk_url else "ZENDESK_SUBDOMAIN"
    advice = f"check {place}, then {names}, and that this host may reach it"
    url = f"{settings.account_url}/api/v2/users/me.json"
    return await probe(NAME, lambda: _ask(res, url, place, names), advice)


async def _ask(res: Resources, url: str, place: str, names: str) -> Check:
    answer = await _fetch(res, url)
    user = answer.get("user") if isinstance(answer, dict) else None
    if not isinstance(user, dict):
        return Check(NAME, False, "this is not how Zendesk's API answers", f"check {place}")
    if not isinstance(user.get("id"), int):  # whose credentials are wrong is served, as nobody
        found = "Zendesk does not know these credentials"
        return Check(
            NAME, False, found, f"check {names}: API tokens must be allowed, and the token's agent exist"
        )
    if user.get("role") == "end-user":
        return Check(NAME, False, "signed in as an end user", f"check {names}: an agent's are needed")
    return Check(NAME, True, f"signed in as user {user['id']}")


async def _fetch(res: Resources, url: str) -> object:
    body = bytearray()
    expected = Expected(None, "application/json", None)
    async with download(
        res.session, res.egress, url, expected=expected, limits=_LIMITS, credentials=res.credentials
    ) as chunks:
        async for chunk in chunks:
            body += chunk
    return read_json(bytes(body))
