"""Check the credentials for Zendesk: one call that returns our user."""

from service.checks.probe import Check, probe
from service.resources import Resources
from service.zendesk.account import USE_A_CLIENT, Account, FixedToken, OAuthClient, expected_end

NAME = "zendesk"
_WITHOUT = "private attachments, and webhooks that only name a comment, fail"
_RESTRICTIONS = ("assigned", "groups", "organization", "requested")
_UNSEEN = (
    "a search by the list of tickets leaves out all others, and cannot notice that their e-mails are missing"
)
_PLACE = "ZENDESK_SUBDOMAIN (or ZENDESK_URL)"


async def check_zendesk(res: Resources) -> Check:
    """Check the account and its credentials, in seconds. Raises nothing."""
    if not res.zendesk.has_login:
        place = "" if res.account.url else "set ZENDESK_SUBDOMAIN, and "
        return Check(NAME, None, "no credentials are set", f"{place}{USE_A_CLIENT}: without them {_WITHOUT}")
    advice = f"check {_PLACE}, then {_names(res.account)}, and that this host may reach it"
    return await probe(NAME, lambda: _ask(res), advice)


async def _ask(res: Resources) -> Check:
    answer = await res.zendesk.current_user()
    user, names = answer.get("user"), _names(res.account)
    if not isinstance(user, dict):
        return Check(NAME, False, "the answer is not one of Zendesk's API", f"check {_PLACE}")
    if not isinstance(user.get("id"), int):  # Zendesk answers wrong credentials too, as anonymous
        return Check(
            NAME, False, "Zendesk does not know these credentials", f"check {names}, and that its user exists"
        )
    if user.get("role") == "end-user":
        return Check(NAME, False, "signed in as an end user", f"check {names}: an agent's are needed")
    found = f"signed in as user {user['id']}"
    advice = []
    # https://developer.zendesk.com/api-reference/ticketing/users/users/
    if user.get("ticket_restriction") in _RESTRICTIONS:
        found += f", who sees only some tickets (ticket_restriction: {user['ticket_restriction']})"
        advice.append(f"in Zendesk, give the user access to all tickets: {_UNSEEN}")
    if (end := expected_end(res.account)) is not None:
        found += f"; {end.when}, and {end.besides}"
        advice.append(end.advice)
    return Check(NAME, None if advice else True, found, "; ".join(advice))


def _names(account: Account) -> str:
    match account.login:
        case OAuthClient():
            return "ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET"
        case FixedToken(kind="oauth_token"):
            return "ZENDESK_OAUTH_TOKEN"
        case _:
            return "ZENDESK_EMAIL and ZENDESK_API_TOKEN"
