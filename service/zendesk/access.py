"""Which requests show the credentials of an account: attachments, its API, and the originals of e-mails."""

from dataclasses import dataclass, field

from yarl import URL

from service.errors import Permanent
from service.zendesk.account import Account, is_api_url
from service.zendesk.login import Login


@dataclass
class FileAccess:
    """Shows the credentials to attachments of the account, and to nothing else."""

    account: Account
    login: Login | None
    shown: str | None = field(default=None, repr=False)  # the header of the latest request that had one

    def shows(self, hop: URL) -> bool:
        return self.account.holds_file(hop)

    async def header(self, hop: URL) -> str | None:
        """Return the header for one hop; raises Permanent for an address of the account's API."""
        if self.account.owns(hop) and is_api_url(hop) and not self.shows(hop):
            raise Permanent(
                "address_refused", f"{hop.raw_host}: this is an address of Zendesk's API, not of a file"
            )
        if self.login is None or not self.shows(hop):
            return None
        self.shown = await self.login.header()
        return self.shown

    async def answered(self, header: str, status: int) -> bool:  # noqa: ARG002 the protocol's signature
        """Note nothing: a file may be refused to a token that is valid, too, and with the same answers."""
        return False

    def owns(self, hop: URL) -> bool:
        host = (hop.raw_host or "").lower()
        if host.endswith(".zdusercontent.com"):
            return False
        is_zendesk = host.endswith(".zendesk.com") or hop.raw_path.startswith("/attachments/")
        return is_zendesk or self.account.owns(hop)


class ApiAccess(FileAccess):
    """Shows the credentials only to the API at the account's own address."""

    def shows(self, hop: URL) -> bool:
        url = self.account.url
        return url is not None and hop.origin() == url.origin() and hop.raw_path.startswith("/api/v2/")

    async def answered(self, header: str, status: int) -> bool:
        """Replace a token that was answered with 401; return False for a fixed one."""
        assert self.login is not None  # noqa: S101 the header came from it
        if status == 401:
            return await self.login.refused(header)
        self.login.accepted(header)
        return False


@dataclass
class OriginalAccess(FileAccess):
    """Shows the credentials only to this one address, that of an original, and dials no other."""

    address: URL = field(kw_only=True)

    def shows(self, hop: URL) -> bool:
        url = self.account.url
        return url is not None and hop.origin() == url.origin() and hop == self.address

    async def header(self, hop: URL) -> str | None:
        if not self.shows(hop):
            raise Permanent("original_not_available", f"{hop.raw_host}: not the address of an original")
        return await super().header(hop)

    async def has_ended(self) -> bool:
        """Replace the token of the last header; return False without one, or for a fixed token.

        A token that nothing accepted yet is kept: it is new, and this address may only be one for browsers.
        """
        if self.login is None or self.shown is None or not self.login.may_have_ended(self.shown):
            return False
        return await self.login.refused(self.shown)
