"""The signing secrets of webhooks that point to us: fetched from Zendesk, and kept encrypted in Postgres.

So nobody copies a secret, web starts without Zendesk, and a rotation needs no change here. A row of `signing_secrets`
without a webhook is the turn to fetch: one process of all may ask Zendesk, once a minute.
"""

import asyncio
import base64
import json
import math
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import NamedTuple

import structlog
from pydantic import SecretStr
from sqlalchemy import delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.config.settings import PUBLIC_TEST_SECRET
from service.config.validators import SHORTEST_SECRET
from service.connect import calls, record
from service.connect.plan import identify
from service.errors import HoldfastError, Permanent, Transient
from service.postgres.engine import transaction
from service.postgres.source_tables import SigningSecret
from service.resources import Resources
from service.zendesk.account import Account, FixedToken, OAuthClient
from service.zendesk.client import Turn, ZendeskClient
from service.zendesk.rate_limit import key_of
from service.zendesk.rules import Webhook, endpoint_of, is_same_address
from service.zendesk.signature import SECRETS_LATE

# Zendesk is asked once in this time, over all processes of an installation.
FETCH_EVERY = timedelta(minutes=1)
# Postgres is asked once in this time by each process, however many requests have unknown signatures.
READ_SECONDS = 0.25
# A request with an unknown signature waits for the secrets at most so long.
WAIT_SECONDS = 4.0
# Further requests with an unknown signature are told at once to come again.
MOST_WAITING = 32
# One fetch, with all its calls.
FETCH_SECONDS = 20.0
# Of webhooks that point to us.
MOST_WEBHOOKS = 5

_TURN = ""  # in place of a webhook's id
# The result of a look that cannot tell a wrong signature from one with a new secret.
_UNKNOWN = -math.inf
# The result of a look where no secret is to be had: each unknown signature is a wrong one.
_NOBODY = math.inf
_SECRET = re.compile(rf"[\x21-\x7e]{{{SHORTEST_SECRET},500}}")
_INFO = b"holdfast: signing secrets of webhooks"

log = structlog.get_logger()


def can_learn(res: Resources) -> bool:
    """Say whether there are credentials to fetch secrets with."""
    return res.account.url is not None and res.account.login is not None


def known_secrets(res: Resources) -> Sequence[str]:
    """Return all secrets that sign webhooks: those of the settings first, then those that were learned."""
    return [
        each.get_secret_value() for each in (*res.account.secrets, *res.learned_secrets.by_webhook.values())
    ]


@asynccontextmanager
async def learning(res: Resources) -> AsyncIterator[None]:
    """Learn the secrets in the background, and go on at once; end with the block."""
    if can_learn(res):
        _start(res, is_forced=True)
    try:
        yield
    finally:
        if (task := res.learned_secrets.task) is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=1)


async def learn(res: Resources, version: int) -> bool:
    """Look for secrets that are newer than `version`; return whether there are some.

    All requests share one look. Raises Transient("signing_secrets_late") if nobody can tell a right signature from a wrong
    one yet: too many requests wait, the look takes longer than WAIT_SECONDS, or Zendesk or Postgres did not tell. Zendesk
    sends a request again after a 503, and not after a 401: so a request is refused only if it is wrong for certain.
    """
    learned = res.learned_secrets
    if not can_learn(res):
        return False
    is_sound = learned.waiting < MOST_WAITING and await _share(res)
    if learned.version != version:
        return True
    if not is_sound:
        late = "The signing secrets of Zendesk are not known yet: send the request again"
        raise Transient(SECRETS_LATE, late)
    return False


async def keep(
    res: Resources, secrets: Mapping[str, str], *, existing: Collection[str] | None = None
) -> None:
    """Keep secrets by their webhooks' ids; with the ids of all `existing` webhooks, delete the secrets of gone ones."""
    account = record.account_of(res)
    encrypted = await asyncio.to_thread(_encrypt, res.account, secrets)
    await res.run(lambda conn: _store(conn, account, encrypted, existing))


async def fetch_secret(client: ZendeskClient, webhook_id: str) -> str | None:
    """Fetch the secret of one webhook; None where the answer has none that may be used."""
    secret = await calls.show_secret(client, webhook_id)
    if isinstance(secret, str) and _SECRET.fullmatch(secret) and secret != PUBLIC_TEST_SECRET:
        return secret
    return None


async def count_unreadable(res: Resources) -> int:
    """Count the kept secrets that these credentials cannot decrypt."""
    account = record.account_of(res)
    rows = await res.run(lambda conn: _load(conn, account))
    return len(rows) - len(await asyncio.to_thread(_decrypt, res.account, rows))


async def is_one_known(res: Resources) -> bool:
    """Say whether the settings have a secret, or one is kept."""
    account = record.account_of(res)
    return bool(res.account.secrets or await res.run(lambda conn: _load(conn, account)))


async def forget(conn: AsyncConnection, account: str) -> None:
    """Delete all secrets of an account."""
    await conn.execute(delete(SigningSecret).where(SigningSecret.account == account))


async def _share(res: Resources) -> bool:
    """Wait for the look that all requests share; return whether an unknown signature is a wrong one.

    It is not if the look takes too long, or began to fetch before this request came: the secret may be newer.
    """
    learned, asked = res.learned_secrets, asyncio.get_running_loop().time()
    learned.waiting += 1
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            # A request that leaves must not end the look of all others.
            return await asyncio.shield(_start(res, is_forced=False)) >= asked
    except TimeoutError:
        return False
    finally:
        learned.waiting -= 1


def _start(res: Resources, *, is_forced: bool) -> "asyncio.Task[float]":
    learned = res.learned_secrets
    if learned.task is None or learned.task.done():
        learned.task = asyncio.create_task(_look(res, is_forced=is_forced))
    return learned.task


async def _look(res: Resources, *, is_forced: bool) -> float:
    """Read the secrets in Postgres and, if they bring no news, fetch them. Raises nothing.

    Return a time by the loop's clock: the unknown signature of a request that came before it is a wrong one.
    """
    try:
        await _wait_to_read(res)
        if await _read(res) and not is_forced:
            return _UNKNOWN
        return await _fetch_if_allowed(res)
    except (HoldfastError, TimeoutError) as exc:
        code = getattr(exc, "code", "timeout")
        log.warning("signing_secrets_not_fetched", code=code)
        # These credentials do not see secrets, such as those of an agent: another look does not help.
        return _NOBODY if code == "forbidden" and known_secrets(res) else _UNKNOWN
    except Exception as exc:  # noqa: BLE001 its text may hold a secret
        log.error("signing_secrets_not_fetched", code=type(exc).__name__)  # noqa: TRY400 likewise
        return _UNKNOWN


async def _wait_to_read(res: Resources) -> None:
    """Wait until this process may read Postgres again."""
    learned, loop = res.learned_secrets, asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, learned.next_read - loop.time()))
    learned.next_read = loop.time() + READ_SECONDS


async def _fetch_if_allowed(res: Resources) -> float:
    """Fetch the secrets if this process gets the turn, else wait for the process that has it; return as `_look` does."""
    signs = await _signs(res)
    if not (signs.endpoints or signs.ids):
        return _NOBODY
    account = record.account_of(res)
    if not await res.run(lambda conn: _take_turn(conn, account)):
        await _wait_for_other(res)
        return _UNKNOWN
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(FETCH_SECONDS):
        are_all = await _fetch(res, signs)
    await _read(res)
    return began if are_all and known_secrets(res) else _UNKNOWN


async def _wait_for_other(res: Resources) -> None:
    """Read Postgres until it has news of a process that took the turn within WAIT_SECONDS."""
    account = record.account_of(res)
    while await res.run(lambda conn: _is_turn_fresh(conn, account)):
        await _wait_to_read(res)
        if await _read(res):
            return


async def _read(res: Resources) -> bool:
    """Read the secrets in Postgres; return whether they differ from the known ones.

    A known secret stays while its row is there and cannot be decrypted: a process with other credentials replaced it.
    """
    learned, account = res.learned_secrets, record.account_of(res)
    rows = await res.run(lambda conn: _load(conn, account))
    found = await asyncio.to_thread(_decrypt, res.account, rows)
    if len(found) < len(rows):  # the credentials are others than those that encrypted them
        log.warning("signing_secrets_not_decrypted", count=len(rows) - len(found))
    secrets = {webhook: SecretStr(secret) for webhook, secret in found.items()}
    stay = {webhook: secret for webhook, secret in learned.by_webhook.items() if webhook in rows}
    return learned.replace(stay | secrets)


class _Ours(NamedTuple):
    """The signs of a webhook that is ours: its address, or its id."""

    endpoints: Sequence[str]
    ids: AbstractSet[str]

    def has(self, webhook: Webhook) -> bool:
        return webhook.id in self.ids or any(is_same_address(webhook.endpoint, own) for own in self.endpoints)


async def _signs(res: Resources) -> _Ours:
    """Return the addresses at which Zendesk reaches us, and the webhooks that are recorded or have a kept secret."""
    account = record.account_of(res)
    recorded = await res.run(lambda conn: record.read(conn, account))
    kept = await res.run(lambda conn: _load(conn, account))
    own = [endpoint_of(res.settings.public_url)] if res.settings.public_url else []
    if recorded is None:
        return _Ours(own, {*kept})
    return _Ours([*own, recorded.endpoint], {*kept, recorded.webhook_id})


async def _fetch(res: Resources, signs: _Ours) -> bool:
    """Fetch and keep the secrets of all webhooks that are ours; return whether none is missing.

    A secret that Zendesk does not tell stays as it is kept. Only those of webhooks that are gone are deleted. The calls
    are few, and all webhooks wait for them; so they do not wait for the calls of e-mails.
    """
    webhooks, are_all = await calls.list_webhooks_if_all(res.zendesk, turn=Turn.AT_ONCE)
    ours = [each for each in webhooks if signs.has(each)]
    ours.sort(key=lambda each: each.id not in signs.ids)
    secrets = {}
    for webhook in ours[:MOST_WEBHOOKS]:
        if (secret := await _secret_unless_gone(res.zendesk, webhook.id)) is not None:
            secrets[webhook.id] = secret
    are_all = are_all and await _are_gone(res, signs.ids - {each.id for each in webhooks})
    await keep(res, secrets, existing=[each.id for each in webhooks] if are_all else None)
    log.info("signing_secrets_fetched", count=len(secrets))
    return are_all and len(secrets) == len(ours)


async def _are_gone(res: Resources, webhook_ids: AbstractSet[str]) -> bool:
    """Say whether webhooks that are not listed do not exist: who is no administrator may only not be shown them."""
    if not webhook_ids:
        return True
    try:
        _, role = await identify(res)
    except HoldfastError:
        return False
    return role == "admin"


async def _secret_unless_gone(client: ZendeskClient, webhook_id: str) -> str | None:
    try:
        return await fetch_secret(client, webhook_id)
    except Permanent as exc:
        if exc.code != "not_found":
            raise
        return None


async def _load(conn: AsyncConnection, account: str) -> Mapping[str, bytes]:
    ours = (SigningSecret.account == account, SigningSecret.webhook_id != _TURN)
    wanted = select(SigningSecret.webhook_id, SigningSecret.encrypted).where(*ours)
    return {
        row.webhook_id: row.encrypted for row in await conn.execute(wanted.order_by(SigningSecret.webhook_id))
    }


async def _take_turn(conn: AsyncConnection, account: str) -> bool:
    """Take the turn to fetch, unless a process of this installation took it within FETCH_EVERY."""
    new = insert(SigningSecret).values(account=account, webhook_id=_TURN, encrypted=b"")
    turn = new.on_conflict_do_update(
        index_elements=["account", "webhook_id"],
        set_={"fetched_at": func.now()},
        where=SigningSecret.fetched_at < func.now() - FETCH_EVERY,
    )
    return (await conn.execute(turn.returning(SigningSecret.account))).one_or_none() is not None


async def _is_turn_fresh(conn: AsyncConnection, account: str) -> bool:
    is_turn = (SigningSecret.account == account, SigningSecret.webhook_id == _TURN)
    is_fresh = SigningSecret.fetched_at > func.now() - timedelta(seconds=WAIT_SECONDS)
    return await conn.scalar(select(literal(1)).where(*is_turn, is_fresh)) is not None


async def _store(
    conn: AsyncConnection, account: str, encrypted: Mapping[str, bytes], existing: Collection[str] | None
) -> None:
    async with transaction(conn):
        if existing is not None:
            ours = SigningSecret.account == account
            began = select(SigningSecret.fetched_at).where(ours, SigningSecret.webhook_id == _TURN)
            # A webhook that was made after the list was read is not in it.
            is_gone = SigningSecret.webhook_id.not_in([*existing, _TURN])
            is_older = SigningSecret.fetched_at < began.scalar_subquery()
            await conn.execute(delete(SigningSecret).where(ours, is_gone, is_older))
        for webhook_id, content in sorted(encrypted.items()):
            new = insert(SigningSecret).values(account=account, webhook_id=webhook_id, encrypted=content)
            changed = {"encrypted": content, "fetched_at": func.now()}
            await conn.execute(
                new.on_conflict_do_update(index_elements=["account", "webhook_id"], set_=changed)
            )


def _key(account: Account) -> bytes:
    """Derive the key from the credentials: https://www.rfc-editor.org/rfc/rfc5869."""
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 only here it is needed
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415 likewise

    assert account.url is not None  # noqa: S101 a login requires the address
    match account.login:
        case OAuthClient(secret=secret):
            material = secret.get_secret_value()
        case FixedToken(header=header):
            material = header
        case _:
            raise AssertionError("there are no credentials")
    derived = HKDF(SHA256(), length=32, salt=key_of(account.url).encode(), info=_INFO)
    return base64.urlsafe_b64encode(derived.derive(material.encode("utf-8", "surrogatepass")))


def _encrypt(account: Account, secrets: Mapping[str, str]) -> Mapping[str, bytes]:
    """Encrypt each secret together with its webhook's id, so that no row can stand for another."""
    from cryptography.fernet import Fernet  # noqa: PLC0415 only here it is needed

    fernet = Fernet(_key(account))
    return {
        webhook: fernet.encrypt(json.dumps([webhook, secret]).encode()) for webhook, secret in secrets.items()
    }


def _decrypt(account: Account, rows: Mapping[str, bytes]) -> Mapping[str, str]:
    """Decrypt the secrets; those that other credentials encrypted are left out."""
    if not rows:
        return {}
    from cryptography.fernet import Fernet, InvalidToken  # noqa: PLC0415 only here it is needed

    fernet, found = Fernet(_key(account)), {}
    for webhook, content in rows.items():
        try:
            of, secret = json.loads(fernet.decrypt(content))
        except (InvalidToken, ValueError, TypeError):
            continue
        if of == webhook:
            found[webhook] = secret
    return found
