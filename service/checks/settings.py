"""Check settings that are valid one by one, but risky or incomplete together."""

from fnmatch import fnmatchcase

from service.checks.probe import Check
from service.config.settings import Settings
from service.zendesk.account import USE_A_CLIENT, account_of

# Processes refuse tokens below 16 characters; a longer one of words is still easier to guess than a random one.
SHORT_TOKEN = 20
_TOKEN = "set {} to what `openssl rand -hex 32` prints"  # noqa: S105 advice, not a token
# Zendesk redirects its addresses of attachments to this host.
_ZENDESK_FILES = "p1.zdusercontent.com"
_TOO_MUCH = ("*", "*.*", "*.com")
_EVERY_TENANT = "*.zendesk.com"
NO_CHANNEL_ADVICE = "set ALERT_EMAIL_TO, ALERT_SLACK_URL or ALERT_WEBHOOK_URL; docs/alerts.md explains them"


def check_settings(settings: Settings) -> list[Check]:
    """Check the settings that need no server."""
    return [
        Check("settings", True, "all are valid"),
        _webhook_secret(settings),
        _api_tokens(settings),
        _download_hosts(settings),
        _alerts(settings),
        *([_links(settings)] if settings.sync_url else ()),
        _drill(settings),
    ]


def _webhook_secret(settings: Settings) -> Check:
    name, account = "webhook secret", account_of(settings)
    if account.secrets:
        return Check(name, True, f"{len(account.secrets)} set")
    if account.login is not None:
        return Check(name, True, "fetched from Zendesk, because ZENDESK_WEBHOOK_SECRETS is not set")
    needs = (
        f"{USE_A_CLIENT}, and run `holdfast connect`; or copy the signing secret into ZENDESK_WEBHOOK_SECRETS"
    )
    return Check(name, False, "none set", f"{needs}: web does not start without it")


def _api_tokens(settings: Settings) -> Check:
    tokens = {"API_TOKEN": settings.api_token, "API_READ_TOKEN": settings.api_read_token}
    lengths = {name: len(token.get_secret_value()) for name, token in tokens.items() if token}
    if short := [name for name, length in lengths.items() if length < SHORT_TOKEN]:
        found = f"{short[0]} has fewer than {SHORT_TOKEN} characters"
        return Check("API token", None, found, _TOKEN.format(short[0]))
    if "API_TOKEN" not in lengths:
        found = "API and pages are read-only" if lengths else "API and pages are closed"
        return Check("API token", None, found, _TOKEN.format("API_TOKEN"))
    return Check("API token", True, "set")


def _download_hosts(settings: Settings) -> Check:
    name, hosts = "download hosts", account_of(settings).download_hosts
    if settings.download_private_networks:
        advice = "set DOWNLOAD_PRIVATE_NETWORKS=false in production: a webhook could name servers of yours"
        return Check(name, None, "private addresses and plain http are allowed", advice)
    if wide := [host for host in hosts if host in _TOO_MUCH]:
        return Check(
            name,
            None,
            f"{wide[0]} allows nearly every host",
            "name only hosts that you trust in DOWNLOAD_HOSTS",
        )
    if _EVERY_TENANT in hosts:
        advice = (
            "name your own hosts in ZENDESK_HOSTS instead: files of any other account would be accepted too"
        )
        return Check(name, None, f"{_EVERY_TENANT} allows every account of Zendesk", advice)
    if not any(fnmatchcase(_ZENDESK_FILES, host.lower()) for host in hosts):
        advice = "add *.zdusercontent.com to DOWNLOAD_HOSTS: Zendesk keeps attachments there"
        return Check(name, None, "Zendesk's own host is missing", advice)
    return Check(name, True, ", ".join(hosts))


def _alerts(settings: Settings) -> Check:
    channels = {
        "mail": settings.alert_email_to,
        "slack": settings.alert_slack_url,
        "webhook": settings.alert_webhook_url,
    }
    if not (channels_set := [name for name, address in channels.items() if address]):
        return Check("alerts", None, "no channel is set up", NO_CHANNEL_ADVICE)
    if not settings.public_url:
        return Check("alerts", None, "alerts have no links", "set PUBLIC_URL to this service's own address")
    return Check("alerts", True, f"by {', '.join(channels_set)}")


def _links(settings: Settings) -> Check:
    """Check the links to attachments in synced documents."""
    if settings.sync_links == "presigned":
        return Check("links of the sync", True, "presigned by the storage, for a week")
    if not settings.public_url:
        advice = "set PUBLIC_URL to this service's own address: without it, a link begins with /api/v1/ and names no host"
        return Check("links of the sync", None, "they name no host", advice)
    return Check("links of the sync", True, f"to {settings.public_url}")


def _drill(settings: Settings) -> Check:
    if settings.fault_points:
        return Check("fault points", False, "a drill may kill processes", "unset FAULT_POINTS in production")
    return Check("fault points", True, "none")
