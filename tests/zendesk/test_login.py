"""Access tokens are renewed before they end, once for all requests, and without a wait."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from service.errors import HoldfastError, Permanent, Transient
from service.zendesk.login import ClientLogin, Token
from service.zendesk.rate_limit import MOST_PAUSE_SECONDS

LIFE = 300.0


class Office:
    """Gives tokens by a simulated clock; counts the requests, in total and at once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = self.given = 0
        self.under_way = self.most_under_way = 0
        self.error: HoldfastError | None = None
        self.opened = asyncio.Event()
        self.opened.set()
        self.login = ClientLogin(self.fetch, lambda: self.now)

    async def fetch(self) -> Token:
        self.asked += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.opened.wait()
            await asyncio.sleep(0)
            if self.error is not None:
                raise self.error
            self.given += 1
            return Token(f"Bearer {self.given}", LIFE)
        finally:
            self.under_way -= 1

    async def is_good(self, header: str) -> bool:
        return header == f"Bearer {self.given}"


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_simultaneous_requests_share_one_token() -> None:
    office = Office()

    headers = await asyncio.gather(*(office.login.header() for _ in range(100)))

    assert (set(headers), office.given, office.most_under_way) == ({"Bearer 1"}, 1, 1)


async def test_no_request_waits_for_a_renewal_while_the_token_is_valid() -> None:
    office = Office()
    await office.login.header()
    office.opened.clear()  # no request for a token is answered from now on

    office.now += 0.79 * LIFE
    assert await office.login.header() == "Bearer 1"
    await settled()
    assert office.under_way == 0, "it is too early for another one"
    office.now += 0.02 * LIFE
    for _ in range(100):
        assert await office.login.header() == "Bearer 1"
    await settled()
    assert office.under_way == 1
    office.opened.set()
    await settled()
    assert await office.login.header() == "Bearer 2"


async def test_a_thousand_lifetimes_take_a_thousand_tokens_and_no_error() -> None:
    office = Office()

    for _ in range(10_000):
        headers = await asyncio.gather(*(office.login.header() for _ in range(3)))
        office.login.accepted(headers[0])
        await settled()
        office.now += LIFE / 10

    # Renewed at 80 % of each lifetime.
    assert 1000 <= office.given <= 1300
    assert office.most_under_way == 1


async def test_a_revoked_token_is_replaced_once_for_all_requests() -> None:
    office = Office()

    for renewal in range(1, 1001):
        header = await office.login.header()
        office.login.accepted(header)
        assert all(await asyncio.gather(*(office.login.refused(header) for _ in range(10))))
        assert office.given == renewal + 1
    assert office.most_under_way == 1


async def test_pauses_grow_during_an_outage_and_valid_tokens_stay_in_use() -> None:
    office = Office()
    await office.login.header()
    office.error = Transient("token_unavailable", "away", counts=False)
    office.now += 0.9 * LIFE

    for _ in range(100):
        assert await office.login.header() == "Bearer 1"
        await settled()

    office.now += LIFE  # it has ended
    for _ in range(600):  # ten minutes, ten requests a second
        for _ in range(10):
            with pytest.raises(Transient) as away:
                await office.login.header()
            assert (away.value.code, away.value.counts) == ("token_unavailable", False)
        office.now += 1
    office.error = None
    office.now += 30
    assert await office.login.header() == "Bearer 2"


async def test_an_error_during_a_pause_tells_how_long_to_wait() -> None:
    office = Office()
    office.error = Transient("token_unavailable", "away", counts=False)
    with pytest.raises(Transient):
        await office.login.header()

    with pytest.raises(Transient) as waits:
        await office.login.header()

    assert waits.value.retry_after is not None
    assert timedelta(0) < waits.value.retry_after <= timedelta(seconds=30)


async def test_no_token_is_asked_for_before_the_time_that_zendesk_names() -> None:
    office = Office()
    office.error = Transient("token_unavailable", "too many", timedelta(seconds=90), counts=False)

    for _ in range(89):
        with pytest.raises(Transient) as waits:
            await office.login.header()
        assert waits.value.retry_after is not None
        assert waits.value.retry_after + timedelta(seconds=office.now - 1000) == timedelta(seconds=90)
        office.now += 1
    asked, office.error = office.asked, None
    office.now += 2

    assert (asked, await office.login.header()) == (1, "Bearer 1")


async def test_a_pause_without_end_is_bounded() -> None:
    office = Office()
    office.error = Transient("token_unavailable", "too many", timedelta(days=1), counts=False)
    with pytest.raises(Transient):
        await office.login.header()

    office.error = None
    office.now += MOST_PAUSE_SECONDS

    assert await office.login.header() == "Bearer 1"


async def test_an_unknown_client_is_a_permanent_error() -> None:
    office = Office()
    office.error = Permanent("credentials_refused", "unknown client")

    for _ in range(2):
        with pytest.raises(Permanent) as refused:
            await office.login.header()
        assert refused.value.code == "credentials_refused"


async def test_tokens_that_are_refused_at_once_are_replaced_ever_more_slowly() -> None:
    office = Office()

    errors = set()
    for _ in range(1000):
        try:
            await office.login.refused(await office.login.header())
        except Transient as exc:
            errors.add((exc.code, exc.counts))
            office.now += 0.1

    assert errors == {("token_refused", True)}
    assert office.given < 20


async def test_a_token_that_is_refused_at_once_is_not_shown_again_meanwhile() -> None:
    """As for a user who is suspended: each e-mail would cost further answers of 401."""
    office = Office()

    shown, waits = 0, []
    for _ in range(1000):
        try:
            header = await office.login.header()
            shown += 1
            await office.login.refused(header)
        except Transient as exc:
            waits.append(exc.retry_after)
            office.now += 0.1
    for _ in range(100):  # many requests are under way with one token
        with suppress(Transient):
            await office.login.refused(f"Bearer {office.given}")

    assert shown < 20
    assert office.given < 20
    assert all(wait is not None and wait <= timedelta(seconds=30) for wait in waits)
    office.now += 30
    header = await office.login.header()
    office.login.accepted(header)
    assert await office.login.header() == header


async def test_a_cancelled_request_does_not_cancel_the_token_of_others() -> None:
    office = Office()
    office.opened.clear()
    waiting = [asyncio.create_task(office.login.header()) for _ in range(3)]
    await settled()

    waiting[0].cancel()
    await settled()
    office.opened.set()

    assert await asyncio.gather(*waiting[1:]) == ["Bearer 1"] * 2
    await office.login.close()


def test_the_repr_of_a_token_is_secret() -> None:
    assert "hunter2" not in repr(Token("Bearer hunter2", LIFE))
