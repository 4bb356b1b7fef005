"""Look at settings that are right one by one, and together are not what one wants."""

from fnmatch import fnmatchcase

from service.checks.finding import Check
from service.config.settings import Settings
from service.zendesk.account import account_of

# Shorter than 16 characters no process starts with; words of a language are guessed more easily than random ones.
SHORT_TOKEN = 20
_TOKEN = "set {} to what `openssl rand -hex 32` prints"  # noqa: S105 no token, but how to come by one
# Where Zendesk's own addresses of attachments lead to.
_ZENDESK_FILES = "p1.zdusercontent.com"
_TOO_MUCH = ("*", "*.*", "*.com")
_EVERY_TENANT = "*.zendesk.com"


def check_settings(settings: Settings) -> list[Check]:
    """Judge what no server needs to be asked for."""
    secrets = len(account_of(settings).secrets)
    needs = "copy the webhook's signing secret into ZENDESK_WEBHOOK_SECRETS: web does not start without"
    return [
        Check("settings", True, "all can be read"),
        Check("webhook secret", bool(secrets), f"{secrets or 'none'} set", "" if secrets else needs),
        _api_tokens(settings),
        _download_hosts(settings),
        _alerts(settings),
        *([_links(settings)] if settings.sync_url else ()),
        _drill(settings),
    ]


def _api_tokens(settings: Settings) -> Check:
    tokens = {"API_TOKEN": settings.api_token, "API_READ_TOKEN": settings.api_read_token}
    lengths = {name: len(token.get_secret_value()) for name, token in tokens.items() if token}
    if short := [name for name, length in lengths.items() if length < SHORT_TOKEN]:
        found = f"{short[0]} has fewer than {SHORT_TOKEN} characters"
        return Check("API token", None, found, _TOKEN.format(short[0]))
    if "API_TOKEN" not in lengths:
        found = "API and pages only show" if lengths else "API and pages are closed"
        return Check("API token", None, found, _TOKEN.format("API_TOKEN"))
    return Check("API token", True, "set")


def _download_hosts(settings: Settings) -> Check:
    name, hosts = "download hosts", account_of(settings).download_hosts
    if settings.download_private_networks:
        advice = "set DOWNLOAD_PRIVATE_NETWORKS=false in production: a webhook could name servers of yours"
        return Check(name, None, "private addresses and plain http are allowed", advice)
    if wide := [host for host in hosts if host in _TOO_MUCH]:
        return Check(name, None, f"{wide[0]} is nearly everybody", "name in DOWNLOAD_HOSTS whom you trust")
    if _EVERY_TENANT in hosts:
        advice = "name your own hosts in ZENDESK_HOSTS instead: the files of every other account would be taken, too"
        return Check(name, None, f"{_EVERY_TENANT} is every account of Zendesk's", advice)
    if not any(fnmatchcase(_ZENDESK_FILES, host.lower()) for host in hosts):
        advice = "add *.zdusercontent.com to DOWNLOAD_HOSTS: Zendesk's attachments are there"
        return Check(name, None, "Zendesk's own are missing", advice)
    return Check(name, True, ", ".join(hosts))


def _alerts(settings: Settings) -> Check:
    channels = {
        "mail": settings.alert_email_to,
        "slack": settings.alert_slack_url,
        "webhook": settings.alert_webhook_url,
    }
    if not (told := [name for name, address in channels.items() if address]):
        advice = "set ALERT_EMAIL_TO, ALERT_SLACK_URL or ALERT_WEBHOOK_URL, as docs/alerts.md says"
        return Check("alerts", None, "nobody is told", advice)
    if not settings.public_url:
        return Check("alerts", None, "they have no links", "set PUBLIC_URL to this service's own address")
    return Check("alerts", True, f"by {', '.join(told)}")


def _links(settings: Settings) -> Check:
    """Look where the documents of the sync say that files are."""
    if settings.sync_links == "presigned":
        return Check("links of the sync", True, "presigned by the storage, for a week")
    if not settings.public_url:
        advice = (
            "set PUBLIC_URL to this service's own address: a document says /api/v1/… of a file, and no host"
        )
        return Check("links of the sync", None, "they lead nowhere", advice)
    return Check("links of the sync", True, f"to {settings.public_url}")


def _drill(settings: Settings) -> Check:
    if settings.fault_points:
        return Check("fault points", False, "a drill may kill processes", "unset FAULT_POINTS in production")
    return Check("fault points", True, "none")
