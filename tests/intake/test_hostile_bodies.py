"""Signed bodies with broken or odd JSON: each is recorded once, byte for byte."""

import asyncio
import zlib
from typing import Any

import asyncpg
import pytest

from service.local.zendesk.sender import WebhookResponse
from service.zendesk.signature import INVOCATION_ID
from tests.conftest import Client, Server

Bodies = dict[str, bytes]


def inside(words: bytes, *more: bytes) -> Bodies:
    """Put each value, valid or not, into an e-mail with more fields after it."""
    values = [*words.split(), *more]
    return {repr(value)[:60]: b'{"ticket_id": 7, "x": %s, "subject": "kept"}' % value for value in values}


def quoted(*texts: bytes) -> Bodies:
    return inside(b"", *(b'"%s"' % text for text in texts))


def called(*keys: bytes) -> Bodies:
    about = b'{"ticket_id": 7, "subject": "kept", %s: {"ticket_id": 8, "subject": "lost"}}'
    return {repr(key)[:60]: about % key for key in keys}


def around(*pairs: tuple[bytes, bytes]) -> Bodies:
    return {f"{before!r} and {after!r}": before + PLAIN.encode() + after for before, after in pairs}


PLAIN = '{"ticket_id": 7, "subject": "kept"}'

# Unambiguous: an e-mail for ticket 7 with the subject "kept".
READABLE: dict[str, Bodies] = {
    "numbers": inside(
        b"0 -0 -0.0 7 1.5 -1.5e3 1E+2 1e-2 0e1 0E+0 1e22 123456789e-400 1e99999 -1e99999 1e-99999"
        b" 12345678901234567890123456",
        b"0." + b"0" * 80 + b"1",
        b"1" + b"0" * 400 + b".5",
    ),
    "texts": inside(
        rb'"\"\\\/\b\f\n\r\t" "\u0041\u00e9\u20AC" "\ud83d\ude00" "\uDE00\uD83D" "\ud83d" "\ud83d\ud83d\ude00"'
        rb' "\ud83dx\ude00" "\u0000" "\uffff\ufdd0" "\\u005C" "`"',
        *(b'"\n"', b'"\x01\x1f\x7f"', b'"\0"', b'"/* */ // #"'),
        *('"\u2028\u2029\ufeff\u202e"'.encode(), '"\uffff\U0010ffff"'.encode()),
    ),
    # Read as windows-1252 where it is not UTF-8; the following text is not lost.
    "texts that are no UTF-8": quoted(
        *(
            b"\xff",
            b"\xfe",
            b"\x80",
            b"\xbf",
            b"\xc3",
            b"\xe2\x82",
            b"\xf0\x9f\x98",
            b"\xc3\x28",
            b"\xe2\x28\xa1",
        ),
        *(b"\xc0\xaf", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xed\xa0\x80"),
        *(
            b"\xed\xbf\xbf",
            b"\xf4\x90\x80\x80",
            b"\xf5\x80\x80\x80",
            b"\xf8\x88\x80\x80\x80",
            b"\xfc\x84\x80",
        ),
        *(b"\xfe\xff\0a", b"a\xff\xfe", b"\x81\x8d\x8f\x90\x9d"),
    ),
    "keys": called(
        *rb'"" "\u0000" "\ud800" "__proto__" "constructor" "__class__" "Ticket_Id" "$ref" "ticket.id"'.split(),
        *(b'" "', b'"ticket_id "', b'"\0"', b'"\xff"', b'"%s"' % (b"k" * 100_000)),
    ),
    "structures": {
        "spaces": b' \t\r\n{ "ticket_id"\t:\r\n7 ,\n"subject" : "kept" } \r\n\t ',
        "no spaces": b'{"ticket_id":7,"subject":"kept"}',
        "an escaped key": rb'{"\u0074icket_id": 7, "subject": "kept"}',
        "the same key twice": b'{"ticket_id": 7, "ticket_id": 7, "subject": "kept", "subject": "kept"}',
        "empty things": b'{"ticket_id": 7, "a": {}, "b": [], "c": "", "d": [[], {}], "subject": "kept"}',
        "true, false, null": b'{"ticket_id": 7, "a": [true, false, null], "subject": "kept"}',
        "100,000 empty keys": b'{"ticket_id": 7,' + b'"": 1,' * 100_000 + b'"subject": "kept"}',
        "900 kB of escapes": b'{"ticket_id": 7, "x": "%s", "subject": "kept"}' % (rb"\ud83d\ude00" * 75_000),
        "100,000 numbers": b'{"ticket_id": 7, "x": [' + b"1e9," * 100_000 + b'0], "subject": "kept"}',
    },
    "encodings": {
        f"{codec}, {'BOM' if mark else 'no BOM'}": (mark + PLAIN).encode(codec)
        for codec in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
        for mark in ("\ufeff", "")
    },
}

# Unreadable or ambiguous.
BROKEN: dict[str, Bodies] = {
    "numbers": inside(
        b"01 -01 00 +1 ++1 --1 - + .5 -.5 . 1. -1. 1.e1 1e 1e+ 1E- 0e 1.5e 1e1.5 1eE2 0x1 0XFF 0b1 0o7 1_000 1,000"
        b" 1a NaN -NaN nan Infinity -Infinity +Infinity inf 1/2 $1 1% 1L 1n 0.1.2 2e3e4 1-2",
        *(b"1 2", b"- 1", "\uff11".encode(), "\u0661".encode(), b"1" + b"0" * 5000),
    ),
    "texts": inside(
        rb'"\x41" "\a" "\'"'
        rb' "\0" "\u" "\u1" "\u12g4" "\u-123" "\u{41}" "\U00000041" "\ud800\u" "\ud800\u1" "\" "x x"'
        rb""" 'x' `x` x ""x"" u"x" <x>""",
        *(
            rb'"\ "',
            rb'"\u 123"',
            b'"\\\xff"',
            b'"\\\0"',
            b'"\\\n"',
            b'"said "yes""',
            b'"a" "b"',
            b"\xff",
            b"\0",
        ),
        *("\u201cx\u201d".encode(), b"\xef\xbb\xbf1", b"\x01", b"\xe2\x82"),
    ),
    "values": inside(
        b"nul nulll tru True TRUE False None nil undefined yes {{ticket.id}} {a:1} {1:2} {null:1} {'a':1}"
        b' {"a"} {"a":} {"a"::1} {"a"=>1} {"a"=1} {:a=>1} {,"a":1} {"a":1,} {"a":1,,"b":2} {"a":1;"b":2} {["a"]:1}'
        b' { } [ ] [1,] [,1] [1,,2] [,] [1:2] [1} {"a":1] [1]] (1) 1;',
        *(
            b"",
            b'{"a" 1}',
            b'{"a": 1 "b": 2}',
            b"[1 2]",
            b"1 // x\n",
            b"1 /* x */",
            b"1 # x\n",
            b"<!-- --> 1",
        ),
        *(b"\x0b1", b"\x0c1", b"\xc2\xa01", b"\xe2\x80\xa81"),
    ),
    "wholes": {
        **{
            repr(body): body
            for body in (b" ", b"\n", b"\t\r\n  ", b"\0\0", b"'", b'"', b"{", b"}", b"[", b"]")
        },
        **around((b"", b"}"), (b"", b"]"), (b"", b","), (b"", b";"), (b"", b"\0"), (b"", b"x"), (b"", b'""')),
        **around((b"", PLAIN.encode()), (b"", b"\n" + PLAIN.encode()), (b"", b"\x1a"), (b"", b"\xff")),
        **around((b"[", b""), (b",", b""), (b"callback(", b")"), (b")]}',\n", b""), (b"payload=", b"")),
        **around(
            (b"\x0c", b""), (b"\x1e", b""), (b"//\n", b""), (b"\xc2\xa0", b""), (b"\xff", b""), (b"--\n", b"")
        ),
        "unclosed": PLAIN[:-1].encode(),
        "cut in the middle": PLAIN[:17].encode(),
        "YAML": b"ticket_id: 7\nsubject: kept\n",
        "XML": b'<?xml version="1.0"?><ticket id="7"/>',
        "a form": b"ticket_id=7&subject=kept",
        "gzip": zlib.compress(PLAIN.encode(), wbits=31),
        "900 kB of commas": b'{"ticket_id": 7' + b"," * 900_000 + b"}",
        "900 kB of quotes": b'{"ticket_id": 7, "x": ' + b'"' * 900_000 + b"}",
        "900 kB of backslashes": b'{"ticket_id": 7, "x": "' + b"\\" * 900_001 + b'"}',
        "200,000 objects deep": b'{"a":' * 200_000,
    },
    "encodings": {
        "UTF-8 with two BOMs": b"\xef\xbb\xbf" * 2 + PLAIN.encode(),
        "UTF-8 with a BOM at its end": PLAIN.encode() + b"\xef\xbb\xbf",
        "half a BOM": b"\xef\xbb" + PLAIN.encode(),
        "UTF-16 that is UTF-8": b"\xff\xfe" + PLAIN.encode(),
        "UTF-16 of the other order": b"\xff\xfe" + PLAIN.encode("utf-16-be"),
        "UTF-16 that lacks a byte": PLAIN.encode("utf-16")[:-1],
        "UTF-32 that lacks a byte": PLAIN.encode("utf-32")[:-1],
        "UTF-7 with a BOM": b"+/v8-" + PLAIN.encode("utf-7"),
        "EBCDIC": PLAIN.encode("cp037"),
        "a UTF-8 BOM": b"\xef\xbb\xbf ",
        "UTF-16 BOMs": b"\xff\xfe\xfe\xff",
        "a UTF-32 BOM": b"\x00\x00\xfe\xff",
    },
}


async def post_all(client: Client, bodies: Bodies) -> dict[str, WebhookResponse]:
    """Send each body as its own invocation, with the same id at every call."""
    answers = await asyncio.gather(
        *(
            client.zendesk.send(client.webhook, body, headers={INVOCATION_ID: f"invocation-{number}"})
            for number, body in enumerate(bodies.values())
        )
    )
    return dict(zip(bodies, answers, strict=True))


async def raw_bodies(database: asyncpg.Connection, table: str) -> list[bytes]:
    return sorted(row["raw_body"] for row in await database.fetch(f"SELECT raw_body FROM {table}"))


def told(answers: dict[str, WebhookResponse]) -> dict[str, Any]:
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(answers, 200)
    return {name: answer.json() for name, answer in answers.items()}


@pytest.mark.parametrize("kind", READABLE)
async def test_odd_but_unambiguous_json_is_one_complete_email(
    kind: str, client: Server, database: asyncpg.Connection
) -> None:
    bodies = READABLE[kind]

    first = told(await post_all(client, bodies))
    again = told(await post_all(client, bodies))

    assert {name: each["status"] for name, each in first.items()} == dict.fromkeys(bodies, "accepted")
    assert again == {name: {**each, "status": "duplicate"} for name, each in first.items()}
    assert await raw_bodies(database, "incoming_emails") == sorted(bodies.values())
    assert await raw_bodies(database, "quarantined_webhooks") == []
    read = await database.fetch("SELECT DISTINCT zendesk_ticket_id, subject FROM incoming_emails")
    assert [tuple(row) for row in read] == [("7", "kept")]
    await assert_in_service(client)


@pytest.mark.parametrize("kind", BROKEN)
async def test_ambiguous_json_is_quarantined_once_and_complete(
    kind: str, client: Server, database: asyncpg.Connection
) -> None:
    bodies = BROKEN[kind]

    first = told(await post_all(client, bodies))
    again = told(await post_all(client, bodies))

    assert {name: each["status"] for name, each in first.items()} == dict.fromkeys(bodies, "quarantined")
    assert again == first
    assert await raw_bodies(database, "quarantined_webhooks") == sorted(bodies.values())
    assert await raw_bodies(database, "incoming_emails") == []
    await assert_in_service(client)


async def assert_in_service(client: Server) -> None:
    receipt = await client.send(client.zendesk.payload())
    emails = (await client.get("/api/v1/emails"))["emails"]
    assert receipt["status"] == "accepted"
    assert emails[0]["id"] == receipt["email_id"]
    assert (await client.get("/readyz"))["status"] == "ready"
