"""A Zendesk account as a value: its address, its own hosts, its login, its signing secrets."""

import asyncio
import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Literal, NamedTuple
from urllib.parse import unquote

from pydantic import SecretStr
from yarl import URL

from service.config.settings import Settings

# https://developer.zendesk.com/documentation/api-basics/authentication/oauth-migration/
API_TOKENS_END = date(2027, 4, 30)

USE_A_CLIENT = "set ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET"

# The path of an attachment's file. The path of its record in the API differs: /api/v2/attachments/1.json.
_FILE = re.compile(r"/attachments/(?:token/[A-Za-z0-9_-]+|[0-9]+)(?:/[^/\\]*)?")


@dataclass(frozen=True)
class OAuthClient:
    """An OAuth client of the account: the source of short-lived access tokens."""

    client_id: str
    secret: SecretStr


@dataclass(frozen=True)
class FixedToken:
    """A token that a person created, as the whole `Authorization` header."""

    kind: Literal["api_token", "oauth_token"]
    header: str = field(repr=False)


class ExpectedEnd(NamedTuple):
    """An expected end of the credentials: the date, other causes of an end, and advice."""

    when: str
    besides: str
    advice: str


@dataclass(frozen=True)
class Account:
    """All settings of one Zendesk account; without `url` there is no login."""

    url: URL | None = None
    hosts: tuple[str, ...] = ()  # further hosts of the same account: HOST or HOST:PORT
    login: OAuthClient | FixedToken | None = None
    secrets: tuple[SecretStr, ...] = ()
    download_hosts: tuple[str, ...] = ()  # patterns of all hosts that files may come from

    def owns(self, url: URL) -> bool:
        """Say whether an address is on a host of this account."""
        if self.url is None:
            return False
        if _origin(url) == _origin(self.url):
            return True
        host = (url.raw_host or "").lower()
        return url.scheme == self.url.scheme and (
            f"{host}:{url.port}" in self.hosts or (host in self.hosts and url.is_default_port())
        )

    def has_host(self, host: str) -> bool:
        """Say whether a host, without a port, belongs to this account."""
        own = {self.url.raw_host} if self.url else set()
        return host in own or any(host == each.partition(":")[0] for each in self.hosts)

    def holds_file(self, url: URL) -> bool:
        """Say whether an address is that of an attachment on a host of this account.

        Downloads show the credentials only to such addresses: a webhook may name any address, and an answer
        of the API would be stored as a file.
        """
        path = url.raw_path
        return self.owns(url) and _FILE.fullmatch(path) is not None and not _leaves_folder(path)

    def absolute(self, address: str) -> str:
        """Complete an address that is only a path, because some templates omit the host."""
        if self.url is not None and address.startswith("/") and not address.startswith("//"):
            return f"{self.url}".rstrip("/") + address
        return address


@dataclass
class LearnedSecrets:
    """Signing secrets that Zendesk told, by webhook, as this process knows them; and the look for newer ones."""

    by_webhook: Mapping[str, SecretStr] = field(default_factory=dict)
    version: int = 0  # of `by_webhook`
    task: "asyncio.Task[float] | None" = None  # the running look, which all requests share
    waiting: int = 0  # requests that wait for it
    next_read: float = 0.0  # by the loop's clock

    def replace(self, secrets: Mapping[str, SecretStr]) -> bool:
        """Replace all secrets; return whether they are others than before."""
        if secrets == self.by_webhook:
            return False
        self.by_webhook = secrets
        self.version += 1
        return True


def is_api_url(url: URL) -> bool:
    """Say whether a path belongs to the API, or a server may read it as one that does."""
    return url.raw_path.lstrip("/").startswith("api/") or _leaves_folder(url.raw_path)


def account_of(settings: Settings) -> Account:
    """Make the account from the settings."""
    url = URL(settings.account_url).origin() if settings.account_url else None
    hosts = tuple(host.lower() for host in settings.zendesk_hosts)
    own = (url.raw_host or "",) if url else ()
    return Account(
        url,
        hosts,
        _login(settings) if url else None,
        settings.zendesk_webhook_secrets,
        (*settings.download_hosts, *own, *(re.sub(r":\d+$", "", host) for host in hosts)),
    )


def expected_end(account: Account, today: date | None = None) -> ExpectedEnd | None:
    """Return the expected end of the credentials, with advice; None if no end is expected.

    https://developer.zendesk.com/documentation/api-basics/authentication/oauth-migration/
    """
    if not isinstance(account.login, FixedToken):
        return None
    if account.login.kind == "oauth_token":
        return ExpectedEnd(
            "a fixed OAuth token for Zendesk ends some day",
            "nothing renews it",
            f"{USE_A_CLIENT}, and unset ZENDESK_OAUTH_TOKEN",
        )
    has_ended = (today or datetime.now(UTC).date()) > API_TOKENS_END
    return ExpectedEnd(
        f"API tokens of Zendesk {'ended' if has_ended else 'end'} on {API_TOKENS_END.day} {API_TOKENS_END:%B %Y}",
        "Zendesk switches off a token that was not used for 30 days",
        f"make an OAuth client in Zendesk, {USE_A_CLIENT}, and unset ZENDESK_EMAIL and ZENDESK_API_TOKEN",
    )


def _login(settings: Settings) -> OAuthClient | FixedToken | None:
    if settings.zendesk_oauth_client_id and settings.zendesk_oauth_client_secret:
        return OAuthClient(settings.zendesk_oauth_client_id, settings.zendesk_oauth_client_secret)
    if settings.zendesk_oauth_token:
        return FixedToken("oauth_token", f"Bearer {settings.zendesk_oauth_token.get_secret_value()}")
    if settings.zendesk_email and settings.zendesk_api_token:
        user = f"{settings.zendesk_email}/token:{settings.zendesk_api_token.get_secret_value()}"
        return FixedToken("api_token", f"Basic {base64.b64encode(user.encode()).decode()}")
    return None


def _origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme, (url.raw_host or "").lower(), url.port


def _leaves_folder(path: str) -> bool:
    """Say whether a server may read a path as leaving its folder, in any escaping."""
    for _ in range(4):
        segments = re.split(r"[/\\]", path)
        if any(segment.partition(";")[0] in {".", ".."} for segment in segments):
            return True
        if (decoded := unquote(path)) == path:
            return False
        path = decoded
    return True  # no honest path is escaped this often
