"""Verify an export of Holdfast's evidence log: `python3 verify.py`, in the unpacked directory.

It needs Python 3.11 or newer, no other package, no network and no Holdfast. It exits with 0 if everything that it checks
is right, with 1 if anything is wrong, and with 2 for an option that is no such value. `--key` and `--root` compare with what you know from elsewhere.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PURPOSE = b"holdfast evidence head\n"
# Facts that are hashes of content, and how people call that content.
CONTENTS = {
    "body": "the body of a request",
    "headers": "the headers of a request",
    "sha256": "a file",
    "record_sha256": "the record of a message",
    "original_sha256": "the original of a message",
    "text": "the text of a message",
    "reason": "the reason of an act",
}

# Ed25519 (RFC 8032, section 6), verification alone.
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)
Point = tuple[int, int, int, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify the export beside this file; return the exit code."""
    parser = argparse.ArgumentParser(description="Verify an export of Holdfast's evidence log.")
    parser.add_argument("directory", nargs="?", default=str(Path(__file__).resolve().parent))
    parser.add_argument("--key", type=known_key, help="the public key that you know, in hexadecimal digits")
    parser.add_argument(
        "--root", action="append", default=[], type=known_head, help="a head that you know, as SIZE:ROOT"
    )
    options = parser.parse_args(arguments)
    export = Export(Path(options.directory))
    try:
        export.verify(options.key, options.root)
    except Exception as exc:  # noqa: BLE001 a forged export may make Python raise anything
        export.wrong.append(f"The export cannot be read: {type(exc).__name__}: {str(exc)[:500]}")
    for line in export.lines():
        sys.stdout.write(f"{shown(line)}\n")
    return 1 if export.wrong else 0


def shown(line: str) -> str:
    """Return a line without characters that a terminal obeys or cannot show: a forged export would hide what is wrong."""
    encoding = sys.stdout.encoding or "ascii"
    plain = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)
    return plain.encode(encoding, "backslashreplace").decode(encoding)


def known_key(text: str) -> str:
    """Read a public key as a person copied it; raises ArgumentTypeError."""
    key = text.strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", key):
        raise argparse.ArgumentTypeError(f"{text!r} is not a public key of 64 hexadecimal digits")
    return key


def known_head(text: str) -> tuple[int, str]:
    """Read SIZE:ROOT as a person copied it; raises ArgumentTypeError."""
    size, _, root = text.strip().lower().partition(":")
    if not (re.fullmatch("[0-9]{1,18}", size) and re.fullmatch("[0-9a-f]{64}", root)):
        raise argparse.ArgumentTypeError(f"{text!r} is not SIZE:ROOT, a number and 64 hexadecimal digits")
    return int(size), root


class Export:
    """An unpacked export: what was proven of it, what is wrong, and what is left open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.proven: list[str] = []
        self.wrong: list[str] = []
        self.open: list[str] = []

    def verify(self, key: str | None, roots: Sequence[tuple[int, str]]) -> None:
        """Check heads, leaves and files."""
        data = json.loads((self.directory / "evidence.json").read_text("utf-8"))
        heads = {int(head["number"]): self._head(head, data["log"]) for head in data["heads"]}
        self._keys(heads, key)
        known = self._known(heads, roots)
        self._leaves(data["leaves"], heads, known if roots else None)
        self._files(data["leaves"])
        self._complete(data)

    def lines(self) -> Iterator[str]:
        """Yield the result in plain words."""
        yield (
            "WRONG: this export does not prove what it says." if self.wrong else "OK: every check succeeded."
        )
        for title, found in (("Wrong:", self.wrong), ("Proven:", self.proven), ("Not proven:", self.open)):
            if found:
                yield ""
                yield title
                yield from (f"  * {line}" for line in found)

    def _head(self, head: Mapping[str, Any], log: str) -> Mapping[str, Any]:
        """Check the signature of a head; return its statement."""
        number = int(head["number"])  # a path of the export's own choice might lead anywhere
        content = (self.directory / "heads" / f"{number}.json").read_bytes()
        kept = json.loads(content)
        said: Mapping[str, Any] = json.loads(kept["body"])
        public, signature = bytes.fromhex(said["key"]), bytes.fromhex(kept["signature"])
        name = f"head {said['number']} of {said['at']}"
        if said["log"] != log or said["number"] != number:
            self.wrong.append(f"{name} is of another log, or has another number")
        if not is_signed(public, PURPOSE + kept["body"].encode(), signature):
            self.wrong.append(f"the signature of {name} is wrong")
        if head.get("stamp"):
            self._stamp(name, number, content)
        return said

    def _stamp(self, name: str, number: int, content: bytes) -> None:
        """Check that a time stamp is about a head; the authority's signature is for openssl to check."""
        file, stamp = f"heads/{number}.json", f"stamps/{number}.tsr"
        if hashlib.sha256(content).digest() not in (self.directory / stamp).read_bytes():
            self.wrong.append(f"the time stamp of {name} is about something else")
        else:
            self.open.append(
                f"The authority's signature on the time stamp of {name}: check it with"
                f" `openssl ts -verify -data {file} -in {stamp} -CAfile AUTHORITY.pem`"
            )

    def _keys(self, heads: Mapping[int, Mapping[str, Any]], key: str | None) -> None:
        keys = sorted({str(said["key"]) for said in heads.values()})
        if key is None:
            self.open.append(
                f"Whose key signed the heads: compare {', '.join(keys)} with the key that you were told, or use --key"
            )
        elif keys == [key]:
            self.proven.append(f"All heads are signed with the key that you named, {key}.")
        else:
            self.wrong.append(f"heads are signed with {', '.join(keys)}, not with the key that you named")

    def _known(
        self, heads: Mapping[int, Mapping[str, Any]], roots: Sequence[tuple[int, str]]
    ) -> frozenset[int]:
        """Compare heads with those that a person has from elsewhere, such as a mail; return those that are the same."""
        known: set[int] = set()
        for size, root in roots:
            same = {number: str(said["root"]) for number, said in heads.items() if said["size"] == size}
            if not same:
                self.open.append(f"The head of {size} leaves that you know: it is not in this export.")
            elif {*same.values()} == {root}:
                self.proven.append(f"The head of {size} leaves is the one that you know.")
                known |= same.keys()
            else:
                self.wrong.append(f"the head of {size} leaves has another root than the one that you know")
        if not roots:
            self.open.append(
                "That the heads are those that others were given: compare them with mails, or use --root"
            )
        return frozenset(known)

    def _leaves(
        self,
        leaves: Sequence[Mapping[str, Any]],
        heads: Mapping[int, Mapping[str, Any]],
        known: frozenset[int] | None,
    ) -> None:
        """Check that each fact is part of the tree of its heads; `known` are the heads that a person knows, if she named any."""
        times: dict[int, int] = {}
        for leaf in leaves:
            name = f"leaf {leaf['index']}"
            facts = leaf["facts"].encode()
            found = hashlib.sha256(b"\x00" + bytes.fromhex(leaf["salt"]) + facts).digest()
            if not leaf["proofs"]:
                self.wrong.append(f"{name} has no proof")
            for proof in leaf["proofs"]:
                said = heads[proof["head"]]
                path = [bytes.fromhex(each) for each in proof["path"]]
                root = root_from(found, leaf["index"], said["size"], path)
                if root is None or root.hex() != said["root"]:
                    self.wrong.append(f"{name} is not part of the tree of head {proof['head']}")
            if leaf["proofs"]:
                first = min(proof["head"] for proof in leaf["proofs"])
                times[first] = times.get(first, 0) + 1
        for number, count in sorted(times.items()):
            at = heads[number]["at"]
            self.proven.append(
                f"{count} facts were recorded, exactly as they are here, when head {number} was signed: {at}."
            )
        if known is not None:
            self._covered(leaves, known)
        later = sum(1 for leaf in leaves if '"later": true' in leaf["facts"])
        if later:
            self.open.append(
                f"{later} facts were recorded later than they became true; each says so, and when."
            )

    def _covered(self, leaves: Sequence[Mapping[str, Any]], known: frozenset[int]) -> None:
        """Tell apart what a head that the person knows fixes, and what the signer of another head may have made up."""
        count = sum(1 for leaf in leaves if not known.isdisjoint(proof["head"] for proof in leaf["proofs"]))
        if count:
            self.proven.append(f"{count} facts are part of a head that you know.")
        if count < len(leaves):
            self.open.append(
                f"When {len(leaves) - count} facts were recorded: they are proven in no head that you know,"
                " and who has the key can sign others at any time."
            )

    def _files(self, leaves: Sequence[Mapping[str, Any]]) -> None:
        """Check each file against the facts of its e-mail: by its hash."""
        wanted: dict[str, str] = {}
        of_emails: set[tuple[str, str]] = set()
        for leaf in leaves:
            facts = json.loads(leaf["facts"])
            for name, value in facts.items():
                if name in CONTENTS and value is not None:
                    of_emails.add((str(facts.get("email")), value))
                    wanted[value] = f"{CONTENTS[name]} of e-mail {facts.get('email')}, leaf {leaf['index']}"
        found = [
            value for path, value in self._present() if self._is_recorded(path, value, wanted, of_emails)
        ]
        if found:
            self.proven.append(f"{len(found)} files are, bit for bit, those whose hashes were recorded.")
        missing = wanted.keys() - {*found}
        self.open += [f"Not in this export: {name}" for value, name in wanted.items() if value in missing]

    def _present(self) -> Iterator[tuple[Path, str]]:
        """Yield the files of e-mails, as paths below `emails`, with their hashes."""
        emails = self.directory / "emails"
        for path in sorted(emails.rglob("*")):
            inner = path.relative_to(emails)
            if path.is_symlink():
                self.wrong.append(f"emails/{inner} is a link: no export has one")
            elif path.is_file() and inner.parts[1:] != ("history.txt",):
                yield inner, digest(path)

    def _is_recorded(
        self, path: Path, value: str, wanted: Mapping[str, str], of_emails: set[tuple[str, str]]
    ) -> bool:
        if (path.parts[0], value) in of_emails:
            return True
        moved, unknown = "is a part of another e-mail: it was moved", "is in no fact: it was changed or added"
        self.wrong.append(f"emails/{path} {moved if value in wanted else unknown}")
        return False

    def _complete(self, data: Mapping[str, Any]) -> None:
        self.open += [
            f"That these are all e-mails of the request {json.dumps(data['request'])}: the log does not list what it lacks.",
            "That Zendesk told the truth, and that the senders are who they say: the log proves what Holdfast was given.",
            "The names of files: the log has their contents, and which e-mail they are of.",
            "history.txt: it repeats facts for people, and is not checked.",
        ]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def root_from(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root to which an audit path leads (RFC 9162, section 2.1.3.2); None where its length is wrong."""
    if not 0 <= index < size:
        return None
    found, place, last = leaf, index, size - 1
    for step in path:
        if last == 0:
            return None
        if place & 1 or place == last:
            found = hashlib.sha256(b"\x01" + step + found).digest()
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = hashlib.sha256(b"\x01" + found + step).digest()
        place, last = place >> 1, last >> 1
    return found if last == 0 else None


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Verify a signature of Ed25519 (RFC 8032, section 5.1.7)."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, commitment = _decompress(public), _decompress(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if key is None or commitment is None or scalar >= _L:
        return False
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _L
    return _equal(_multiply(scalar, _BASE), _add(commitment, _multiply(challenge, key)))


def _add(one: Point, two: Point) -> Point:
    a = (one[1] - one[0]) * (two[1] - two[0]) % _P
    b = (one[1] + one[0]) * (two[1] + two[0]) % _P
    c = 2 * one[3] * two[3] * _D % _P
    d = 2 * one[2] * two[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _multiply(scalar: int, point: Point) -> Point:
    found: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            found = _add(found, point)
        point = _add(point, point)
        scalar >>= 1
    return found


def _equal(one: Point, two: Point) -> bool:
    return (one[0] * two[2] - two[0] * one[2]) % _P == 0 and (one[1] * two[2] - two[1] * one[2]) % _P == 0


def _recover_x(y: int, sign: int) -> int | None:
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    if square == 0:
        return None if sign else 0
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P:
        return None
    return _P - x if x & 1 != sign else x


def _decompress(encoded: bytes) -> Point | None:
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = _recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % _P)


_BASE_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE_X = _recover_x(_BASE_Y, 0) or 0
_BASE: Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)

if __name__ == "__main__":
    sys.exit(main())
