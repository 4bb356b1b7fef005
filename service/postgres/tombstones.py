"""The SQL that recognises erased content by its tombstones: salted hashes, so that nobody can guess the erased content.

Each check is one look into an index, in the statement that would write the content. Without any erasure there is no salt,
and no hash is computed.
"""

from collections.abc import Sequence

SALT = "(SELECT salt FROM erasure_salts)"
# Stands for the account where no request named it, and matches each account.
ANY_ACCOUNT = "*"

_END = "decode('00', 'hex')"


def request_hashes(key: str, signature: str, body: str) -> list[str]:
    """Return the hashes of a request: of its signature, and of its key together with its body.

    A key alone tells nothing: a template may give one key to different e-mails.
    """
    return [_hash("signature", signature), request_hash(key, body)]


def request_hash(key: str, body: str) -> str:
    """Return the hash of a key and a body."""
    return _hash("request", _text(key), f"sha256({body})")


def comment_hashes(account: str, ticket: str, comment: str) -> list[str]:
    """Return the hashes of a comment: with its account, and with any account."""
    return [_hash("comment", _text(each), _text(ticket), _text(comment)) for each in _accounts(account)]


def ticket_hashes(account: str, ticket: str) -> list[str]:
    """Return the hashes of a ticket of which all is erased that was made until some time."""
    return [_hash("ticket", _text(each), _text(ticket)) for each in _accounts(account)]


def author_hashes(account: str, ticket: str, address: str) -> list[str]:
    """Return the hashes of a sender in a ticket: of e-mails that were erased before their comment was known."""
    about = (_text(ticket), _text(f"lower({address})"))
    return [_hash("author", _text(each), *about) for each in _accounts(account)]


def opened_hashes(account: str, ticket: str) -> list[str]:
    """Return the hashes of a ticket that had an erased e-mail; they keep nothing out."""
    return [_hash("opened", _text(each), _text(ticket)) for each in _accounts(account)]


def content_hash(sha256: str) -> str:
    """Return the hash of a file's content; `sha256` is in hexadecimal digits."""
    return _hash("content", _text(sha256))


def suspended_hash(account: str, suspended_id: str) -> str:
    """Return the hash of a suspended e-mail; the account is a host here."""
    return _hash("suspended", _text(account), _text(suspended_id))


def is_erased(hashes: Sequence[str], made_at: str | None = None, within: str | None = None) -> str:
    """Return the condition that one of these has a tombstone.

    With `made_at`, what was made later is another thing; with `within`, also what was made so long before.
    A CASE: without a salt, nothing else of it is evaluated. A scalar subquery: for an EXISTS, Postgres may choose to read
    all tombstones.
    """
    limit = f" AND until >= {made_at}" if made_at else ""
    limit += f" AND until < {made_at} + {within}" if within else ""
    found = f"SELECT true FROM tombstones WHERE hash = ANY (ARRAY[{', '.join(hashes)}]){limit} LIMIT 1"  # noqa: S608 words of ours
    return f"(CASE WHEN {SALT} IS NULL THEN false ELSE coalesce(({found}), false) END)"


def is_erased_request(row: str) -> str:
    """Return the condition that an e-mail or a request about one has a tombstone; `row` has the columns of e-mails."""
    columns = ("idempotency_key", "signature_hash", "raw_body", "account_id", "zendesk_ticket_id")
    key, signature, body, account, ticket = (f"{row}.{column}" for column in columns)
    comment = f"nullif({row}.comment_id, '')"
    return is_erased([*request_hashes(key, signature, body), *comment_hashes(account, ticket, comment)])


def is_erased_email(row: str, created_at: str) -> str:
    """Return the condition that an e-mail on record has a tombstone, also by the time when its comment was made."""
    ticket = ticket_hashes(f"{row}.account_id", f"{row}.zendesk_ticket_id")
    return f"({is_erased_request(row)} OR {is_erased(ticket, created_at)})"


def _accounts(account: str) -> tuple[str, str]:
    return f"coalesce({account}, '')", f"'{ANY_ACCOUNT}'"


def _text(value: str) -> str:
    return f"convert_to({value}, 'UTF8')"


def _hash(kind: str, *parts: str) -> str:
    """Hash parts of type bytea. A text holds no zero byte, so that one ends each part."""
    ended = "".join(f" || {_END} || {part}" for part in parts)
    return f"sha256({SALT} || convert_to('{kind}', 'UTF8'){ended})"
