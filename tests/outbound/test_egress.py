"""The hosts and addresses that may be dialled."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from service.errors import Permanent
from service.outbound.egress import AddressRefused, Egress

ZENDESK = Egress(("*.zendesk.com", "*.zdusercontent.com"))
PUBLIC = "93.184.216.34 8.8.8.8 1.1.1.1 192.0.1.1 172.15.0.1 172.32.0.1 100.63.0.1 100.128.0.1 198.17.0.1 223.255.255.255"
PUBLIC_V6 = "2606:4700::1111 2001:4860:4860::8888 2a00:1450::1 2001:200::1 3ffe::1"
NOT_PUBLIC = (
    "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.9.9.9 169.254.169.254 "
    "172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.170 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 "
    "198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255"
)
NOT_PUBLIC_V6 = (
    ":: ::1 ::ffff:8.8.8.8 ::ffff:127.0.0.1 ::8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::808:808 64:ff9b:1::1 100::1 "
    "2001::1 2001:0:53aa:64c::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:808:808::1 3fff::1 5f00::1 "
    "fc00::1 fd12:3456::1 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1 4000::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
)
NOT_ADDRESSES = "127.1 2130706433 0x7f000001 0177.0.0.1 localhost 8.8.8.8.8"


@pytest.mark.parametrize("address", PUBLIC.split() + PUBLIC_V6.split())
def test_a_public_address_may_be_dialled(address: str) -> None:
    with ZENDESK.socket_factory(_addr_info(address)) as made:
        assert made.type == socket.SOCK_STREAM


@pytest.mark.parametrize("address", NOT_PUBLIC.split() + NOT_PUBLIC_V6.split() + NOT_ADDRESSES.split())
def test_any_other_address_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused) as refused:
        ZENDESK.socket_factory(_addr_info(address))

    assert refused.value.code == "address_refused"


def test_private_networks_allow_a_private_address() -> None:
    with Egress(("*",), private_networks=True).socket_factory(_addr_info("127.0.0.1")) as made:
        assert made.family == socket.AF_INET


def test_a_family_that_is_not_ip_is_refused() -> None:
    with pytest.raises(AddressRefused):
        Egress(("*",), private_networks=True).socket_factory(
            (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("/tmp/x",))
        )


@pytest.mark.parametrize(
    "url",
    [
        "https://acme.zendesk.com/attachments/token/x/?name=a.pdf",
        "https://ACME.Zendesk.COM/x",
        "https://acme.zendesk.com:443/x",
        "https://p19.zdusercontent.com/x?token=y",
        "https://a.b.zendesk.com/x",
        "https://acme.zendesk.com/http://evil.example/@",
    ],
)
@pytest.mark.parametrize("encoded", [True, False])
def test_an_address_at_zendesk_is_allowed(url: str, encoded: bool) -> None:  # noqa: FBT001 a table
    ZENDESK.check_url(URL(url, encoded=encoded))


@pytest.mark.parametrize(
    "url",
    [
        "http://acme.zendesk.com/x",
        "ftp://acme.zendesk.com/x",
        "file:///etc/passwd",
        "//acme.zendesk.com/x",
        "acme.zendesk.com/x",
        "",
        "https:///x",
        "https://zendesk.com/x",
        "https://.zendesk.com/x",
        "https://evilzendesk.com/x",
        "https://zendesk.com.evil.example/x",
        "https://acme.zendesk.com.evil.example/x",
        "https://acme.zendesk.com./x",
        "https://evil.example/.zendesk.com",
        "https://evil.example?.zendesk.com",
        "https://evil.example#.zendesk.com",
        "https://acme.zendesk.com:8443/x",
        "https://acme.zendesk.com:80/x",
        "https://acme.zendesk.com:0/x",
        "https://acme.zendesk.com:x/x",
        "https://acme.zendesk.com:99999/x",
        "https://user@acme.zendesk.com/x",
        "https://user:password@acme.zendesk.com/x",
        "https://:@acme.zendesk.com/x",
        "https://acme.zendesk.com@evil.example/x",
        "https://evil.example%2f.zendesk.com/x",
        "https://evil.example%00.zendesk.com/x",
        "https://evil example.zendesk.com/x",
        "https://évil.example/x",
        f"https://{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 63}.zendesk.com/x",
    ],
)
@pytest.mark.parametrize("encoded", [True, False])
def test_any_other_address_of_a_file_is_refused(url: str, encoded: bool) -> None:  # noqa: FBT001 a table
    try:
        parsed = URL(url, encoded=encoded)
    except ValueError:
        return
    with pytest.raises(Permanent) as refused:
        ZENDESK.check_url(parsed)

    assert refused.value.code == "address_refused"
    assert "password" not in refused.value.message.replace("a user name or password", "")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1%25eth0]",
        "8.8.8.8",
        "1.2.3.4.5",
        "a.1",
        "a.0x",
    ],
)
def test_a_glob_matches_no_numeric_address(host: str) -> None:
    with pytest.raises(Permanent):
        Egress(("*", "*.*", "127.0.0.*")).check_url(URL(f"https://{host}/", encoded=True))


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "1.2.3.4.5", "a.0x"])
def test_an_oddly_written_numeric_address_is_refused_even_with_private_networks(host: str) -> None:
    with pytest.raises(Permanent):
        Egress(("*", "*.*"), private_networks=True).check_url(URL(f"http://{host}/", encoded=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "[::1]"])
def test_with_private_networks_a_glob_covers_addresses_too(host: str) -> None:
    Egress(("*",), private_networks=True).check_url(URL(f"http://{host}:8080/", encoded=True))


@pytest.mark.parametrize(("host", "glob"), [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1"), ("[::1]", "[::1]")])
def test_an_exactly_named_numeric_address_is_allowed(host: str, glob: str) -> None:
    Egress((glob,), private_networks=True).check_url(URL(f"http://{host}:8080/", encoded=True))


async def test_the_connector_refuses_an_address_in_the_url(unused_listener: int) -> None:
    async with _session(Egress(("127.0.0.1",))) as session:
        error = await _refusal(session, f"http://127.0.0.1:{unused_listener}/")

    assert isinstance(error, AddressRefused)


async def test_the_connector_refuses_loopback_from_a_resolver(unused_listener: int) -> None:
    async with _session(Egress(("*",)), _Answers(["127.0.0.1"])) as session:
        error = await _refusal(session, f"http://acme.zendesk.com:{unused_listener}/")

    assert isinstance(error, AddressRefused)


async def test_the_connector_refuses_any_mix_of_private_addresses(unused_listener: int) -> None:
    answers = _Answers(["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "169.254.169.254"])
    async with _session(Egress(("*",)), answers) as session:
        error = await _refusal(session, f"http://acme.zendesk.com:{unused_listener}/")

    assert isinstance(error, AddressRefused)


async def test_only_the_public_one_of_mixed_addresses_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reported error is the public address's own: it may work later."""
    dialled = _record_connects(monkeypatch)
    answers = _Answers(["127.0.0.1", "93.184.216.34", "::1", "64:ff9b::7f00:1"])
    async with _session(Egress(("*",)), answers) as session:
        error = await _refusal(session, "http://acme.zendesk.com:80/")

    assert set(dialled) == {("93.184.216.34", 80)}
    assert error.errno == errno.ENETUNREACH


async def test_dns_rebinding_does_not_pass_the_check(unused_listener: int) -> None:
    answers = _Answers(["93.184.216.34"])
    egress = Egress(("*",))
    assert egress.allows((await answers.resolve("acme.zendesk.com"))[0]["host"])
    answers.addresses = ["127.0.0.1"]

    connector = aiohttp.TCPConnector(resolver=answers, socket_factory=egress.socket_factory)
    async with aiohttp.ClientSession(connector=connector) as session:
        error = await _refusal(session, f"http://acme.zendesk.com:{unused_listener}/")

    assert isinstance(error, AddressRefused)


@pytest.fixture
async def unused_listener() -> AsyncIterator[int]:
    """A port with a listener that must never be called."""
    calls: list[object] = []

    async def called(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(writer)
        writer.close()

    server = await asyncio.start_server(called, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    assert calls == []


class _Answers(AbstractResolver):
    def __init__(self, addresses: Iterable[str]) -> None:
        self.addresses = list(addresses)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def _session(
    egress: Egress, resolver: AbstractResolver | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=egress.open_connector(resolver)) as session:
        yield session


async def _refusal(session: aiohttp.ClientSession, url: str) -> OSError:
    with pytest.raises(aiohttp.ClientConnectorError) as failed:
        await session.get(url)
    return failed.value.os_error


def _record_connects(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Record the addresses that the loop would dial, and fail: no test connects to the internet."""
    dialled: list[tuple[str, int]] = []

    async def sock_connect(_sock: socket.socket, address: tuple[str, int]) -> None:
        dialled.append(address)
        raise OSError(errno.ENETUNREACH, "nowhere")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", sock_connect)
    return dialled


def _addr_info(address: str) -> aiohttp.AddrInfoType:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443))
