"""Egress rules: the hosts and addresses that a download may connect to."""

import re
import socket
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

from aiohttp import AddrInfoType, TCPConnector, ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from service.errors import Permanent
from service.outbound.reuse import ReusingConnector

# https://www.iana.org/assignments/iana-ipv4-special-registry, written out because `is_global` differs between
# Python 3.11.7 and 3.13; 192.88.99.0/24 led to 6to4 relays.
_NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
# https://www.iana.org/assignments/iana-ipv6-special-registry: only 2000::/3 is assigned as unicast. That
# excludes mapped, NAT64, unique local, link-local, site-local and multicast addresses.
_UNICAST_V6 = IPv6Network("2000::/3")
# Protocol assignments (Teredo, benchmarking, ORCHID), documentation, 6to4, documentation.
_NOT_PUBLIC_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
# A resolver takes these for an IPv4 address: the last label is a decimal, octal or hexadecimal number.
_NUMERIC = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")
_PORTS = {"https": 443, "http": 80}


class AddressRefused(Permanent, OSError):
    """A refused address, as an error that passes through aiohttp: from a socket factory it only lets an OSError through.

    The text is always the same: aiohappyeyeballs merges several errors into one if their texts are equal.
    """

    def __init__(self) -> None:
        super().__init__("address_refused", "resolves to an address that is not on the public internet")


@dataclass(frozen=True)
class Egress:
    """The hosts (globs) that files may come from; `private_networks` also allows http, any port, any address."""

    hosts: tuple[str, ...]
    private_networks: bool = False

    def check_url(self, url: URL) -> None:
        """Raise Permanent("address_refused") unless we may request the URL."""
        try:
            host = url.raw_host or ""
            reason = self._refusal_of(url, host.lower())
        except ValueError:  # yarl splits host and port on first access
            host, reason = "", "its host or port is invalid"
        if reason:
            raise Permanent("address_refused", f"the address at {host[:255]!r} is refused: {reason}")

    def allows(self, address: str) -> bool:
        """Say whether we may connect to a resolved address."""
        return self.private_networks or _is_public(address)

    def socket_factory(self, addr_info: AddrInfoType) -> socket.socket:
        """Create the socket for a resolved address: the last check, after which no second look-up can change it.

        Raises AddressRefused.
        """
        family, kind, protocol, _, address = addr_info
        if family not in {socket.AF_INET, socket.AF_INET6} or not self.allows(str(address[0])):
            raise AddressRefused
        return socket.socket(family=family, type=kind, proto=protocol)

    def open_connector(self, resolver: AbstractResolver | None = None) -> TCPConnector:
        """Open the connector of an aiohttp session; needs a running loop.

        It has no limit: time in aiohttp's queue would count as time of the download.
        """
        resolver = _Resolver(self, resolver or ThreadedResolver())
        return ReusingConnector(resolver, self.socket_factory)

    def _refusal_of(self, url: URL, host: str) -> str | None:
        if url.scheme not in (_PORTS if self.private_networks else {"https"}):
            return "the scheme is not https"
        if "@" in url.raw_authority:
            return "it contains a user name or password"
        if not self._is_allowed(host):
            return "the host is not among DOWNLOAD_HOSTS"
        if url.port != _PORTS[url.scheme] and not self.private_networks:
            return f"the port is not {_PORTS[url.scheme]}"
        return None

    def _is_allowed(self, host: str) -> bool:
        globs = [glob.lower().strip("[]") for glob in self.hosts]
        if ":" in host or _NUMERIC.fullmatch(host):
            may_match = self.private_networks and _is_address(host)
            return host in globs or (may_match and any(fnmatchcase(host, glob) for glob in globs))
        is_name = len(host) <= 253 and bool(_NAME.fullmatch(host))
        return is_name and any(fnmatchcase(host, glob) for glob in globs)


class _Resolver(AbstractResolver):
    """Drops forbidden addresses if there are others, so that their refusal hides no other error."""

    def __init__(self, egress: Egress, resolver: AbstractResolver) -> None:
        self._egress = egress
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        return [each for each in found if self._egress.allows(each["host"])] or found

    async def close(self) -> None:
        await self._resolver.close()


def _is_address(host: str) -> bool:
    """Say whether this is a usual IP address, and not a decimal, octal or other disguise."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_public(address: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _NOT_PUBLIC_V4)
    return parsed in _UNICAST_V6 and not any(parsed in network for network in _NOT_PUBLIC_V6)
