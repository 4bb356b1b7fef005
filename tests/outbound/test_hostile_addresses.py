"""No address, name or redirect leads to a non-public address, or to a host that is not Zendesk's."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from service.errors import HoldfastError
from service.outbound.egress import AddressRefused, Egress
from service.outbound.responses import Expected, Limits
from service.outbound.transfer import download, open_session
from service.zendesk.access import FileAccess
from service.zendesk.account import Account

HOSTS = ("*.zendesk.com", "*.zdusercontent.com")
LIMITS = Limits(max_bytes=1000, seconds=60, stall_seconds=60)

# https://www.iana.org/assignments/iana-ipv4-special-registry, all that is not "globally reachable", and
# multicast
SPECIAL_V4 = """
0.0.0.0/8 0.0.0.0/32 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.0.0/29
192.0.0.8/32 192.0.0.9/32 192.0.0.10/32 192.0.0.170/32 192.0.0.171/32 192.0.2.0/24 192.88.99.0/24 192.88.99.2/32
192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 255.255.255.255/32
"""
# https://www.iana.org/assignments/iana-ipv6-special-registry; embedded IPv4 addresses; unassigned blocks
SPECIAL_V6 = """
::1/128 ::/128 ::/96 ::ffff:0:0/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23
2001::/32 2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28
2001:30::/28 2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8 ::/8 0200::/7 0400::/6
0800::/5 1000::/4 4000::/3 6000::/3 8000::/3 a000::/3 c000::/3 e000::/4 f000::/5 f800::/6 fe00::/9
"""
# Embedded in IPv6: 127.0.0.1 and 169.254.169.254, mapped, compatible, translated, by NAT64, 6to4 and Teredo.
EMBEDDED = """
::ffff:127.0.0.1 ::ffff:7f00:1 ::127.0.0.1 ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1 64:ff9b:1::127.0.0.1 2002:7f00:1::1
2001:0:7f00:1:: 2001:0:4136:e378:8000:63bf:80ff:fffe ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1
fd00:ec2::254 fe80::1%lo ::1%eth0
"""


@pytest.mark.parametrize("block", SPECIAL_V4.split() + SPECIAL_V6.split())
def test_every_non_public_block_is_refused_to_its_ends(block: str) -> None:
    network = ip_network(block)
    middle = network[network.num_addresses // 2]

    refused = [address for address in (network[0], middle, network[-1]) if not is_dialled(str(address))]

    assert len(refused) == 3


@pytest.mark.parametrize("address", EMBEDDED.split())
def test_a_private_address_embedded_in_another_is_refused(address: str) -> None:
    assert not is_dialled(address)


def is_dialled(address: str) -> bool:
    family, rest = (socket.AF_INET6, (443, 0, 0)) if ":" in address else (socket.AF_INET, (443,))
    try:
        Egress(HOSTS).socket_factory((family, socket.SOCK_STREAM, 0, "", (address, *rest))).close()
    except AddressRefused:
        return False
    return True


def wide(text: str) -> str:
    """Write it in the full-width forms that IDNA reads as ASCII."""
    return "".join(chr(ord(char) + 0xFEE0) for char in text)


# Hosts that resemble Zendesk's, or no valid host
LOOKALIKES = r"""
evil.example\.zendesk.com evil.example\@acme.zendesk.com acme.zendesk.com\@evil.example [acme.zendesk.com]
acme%2ezendesk.com acme%2Ezendesk%2Ecom %61cme.zendesk.com acme.zendesk.com%2eevil.example %.zendesk.com
acme.zendesk.com%00.evil.example evil.example%23.zendesk.com evil.example%40.zendesk.com *.zendesk.com
evil.example;.zendesk.com evil.example,.zendesk.com evil.example&.zendesk.com evil.example=.zendesk.com
evil.example!.zendesk.com evil.example$.zendesk.com evil.example'.zendesk.com [a-z].zendesk.com
acme.zendesk.com:443@evil.example evil.example:443@acme.zendesk.com a@b@acme.zendesk.com @acme.zendesk.com
:@acme.zendesk.com acme.zendesk.com@ acme.zendesk.com:@evil.example acme.zendesk.com.. acme..zendesk.com
..zendesk.com evil.example..zendesk.com acme.zendesk.com:443:443 acme.zendesk.com:65979 acme.zendesk.com:-443
[::1].zendesk.com [::1%25.zendesk.com]
"""
ODD_LOOKALIKES = [
    *(f"acme{dot}zendesk{dot}com" for dot in "\u3002\uff0e\uff61\u2024"),
    *(f"zendesk\u3002com evil.example{wide('/')}.zendesk.com evil.example{wide('#')}.zendesk.com".split()),
    *(wide("acme") + ".zendesk.com", f"acme.{wide('z')}endesk.com", f"acme.zendesk.com:{wide('443')}"),
    *(
        "acme.zende\u017fk.com",
        "acme.zendes\u212a.com",
        "acme.zendesk.c\u043em",
        "evil.example\u2100.zendesk.com",
    ),
    *("ac\u00adme.zendesk.com", "a\u200bcme.zendesk.com", "acme.zendesk.com\u3002", "acme.zendesk.com:4 43"),
    *(
        "evil.example\t.zendesk.com",
        "evil.example\r\n.zendesk.com",
        "a\0.zendesk.com",
        "evil.example\x7f.zendesk.com",
    ),
]
# Spellings of addresses, and names of this machine
SPELLINGS = """
127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7f.0.0.1 0x7f.1 017700000001 0177.0.0.1 0177.0.0.01 127.0.0.1.
127.000.000.001 00127.0.0.1 0 0.0.0.0 00 0x0 127.0.0.1%00 127%2e0.0.1 4294967295 4294967296 18446744071562067969
-1 1e3 169.254.169.254 2852039166 0xa9fea9fe 169.254.43518 0251.0376.0251.0376 metadata metadata.google.internal
localhost localhost. LOCALHOST localhost.localdomain ip6-localhost 127.0.0.1.nip.io [::] [::1] [0:0:0:0:0:0:0:1]
[::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::]
[2001:0:7f00:1::] [fe80::1%25eth0] [fe80::1%eth0] [fe80::1] [fd00:ec2::254] [::1%25acme.zendesk.com] [::1
user@127.0.0.1 acme.zendesk.com@127.0.0.1 127.0.0.1#.zendesk.com 127.0.0.1?.zendesk.com 127.0.0.1/.zendesk.com
"""
ODD_SPELLINGS = [
    *("127\u30020\u30020\u30021", wide("127.0.0.1"), wide("2130706433"), "0" + wide("x") + "7f000001"),
    *(".".join(map(wide, "1270")), "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460", "\u0661\u0662\u0667.0.0.1"),
]


@pytest.mark.parametrize("host", [*LOOKALIKES.split(), *ODD_LOOKALIKES, *SPELLINGS.split(), *ODD_SPELLINGS])
@pytest.mark.parametrize("is_first", [True, False])
async def test_no_spelling_of_a_host_leads_elsewhere(host: str, *, is_first: bool, door: "Door") -> None:
    """Neither in a webhook nor in a redirect; and no name server is asked about it."""
    for address in (f"https://{host}/x", f"http://{host}:{door.port}/x", f"//{host}/x"):
        door.location = address
        resolver = Answers("127.0.0.1")

        code = await failure(door, address if is_first else f"http://127.0.0.1:{door.port}/", resolver)

        assert code in ({"address_refused", "bad_url"} if is_first else {"address_refused", "bad_response"})
        assert resolver.asked == []
        assert door.calls == (0 if is_first else 1)
        door.calls = 0


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", *EMBEDDED.split()]
)
async def test_a_redirect_to_a_zendesk_name_with_a_private_address_is_refused(
    address: str, door: "Door"
) -> None:
    """The dialled address counts, for any answer of the name server."""
    door.location = "https://acme.zendesk.com/x"
    resolver = Answers(address)

    code = await failure(door, f"http://127.0.0.1:{door.port}/", resolver)

    assert (code, resolver.asked) == ("address_refused", ["acme.zendesk.com"])


@dataclass
class Door:
    """A server on loopback, the only allowed address there; it redirects to `location`."""

    port: int = 0
    location: str = ""
    calls: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.calls += 1
        location = self.location.replace("\r\n", " ").encode()
        writer.write(
            b"HTTP/1.1 302 X\r\nConnection: close\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % location
        )
        writer.close()


@dataclass(frozen=True)
class WithDoor(Egress):
    """The egress rules of production, and the server on loopback."""

    door: int = 0

    def check_url(self, url: URL) -> None:
        if url.raw_authority != f"127.0.0.1:{self.door}" or url.path != "/":
            super().check_url(url)

    def socket_factory(self, addr_info: aiohttp.AddrInfoType) -> socket.socket:
        if addr_info[4][:2] == ("127.0.0.1", self.door):
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        return super().socket_factory(addr_info)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    door = Door()
    async with await asyncio.start_server(door.serve, "127.0.0.1", 0) as server:
        door.port = server.sockets[0].getsockname()[1]
        yield door


class Answers(AbstractResolver):
    """Resolves every name to one address; records the questions."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del family
        self.asked.append(host)
        kind = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        return [ResolveResult(hostname=host, host=self.address, port=port, family=kind, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def failure(door: Door, url: str, resolver: AbstractResolver) -> str:
    egress = WithDoor(HOSTS, door=door.port)

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        async with (
            open_session(egress, resolver) as session,
            download(
                session, egress, url, expected=Expected(), limits=LIMITS, access=FileAccess(Account(), None)
            ),
        ):
            yield

    with pytest.raises(HoldfastError) as failed:
        await opened().__aenter__()
    return failed.value.code
