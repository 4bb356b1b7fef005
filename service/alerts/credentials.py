"""Credentials of Zendesk that will end, or have ended."""

from service.alerts.finding import Finding
from service.config.settings import Settings
from service.zendesk.account import account_of, ending


def find(settings: Settings) -> list[Finding]:
    """Find out whether the credentials of these settings have an end."""
    end = ending(account_of(settings))
    if end is None:
        return []
    found, advice = end
    detail = (
        f"{found[0].upper()}{found[1:]}.\nBefore then {advice}: without credentials no file can be fetched."
    )
    return [Finding("credentials", "", 1, "The credentials of Zendesk end", detail)]
