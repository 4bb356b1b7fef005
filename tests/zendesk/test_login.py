"""Access tokens are renewed before they end, once for all who need one, and never while nobody has to wait."""

import asyncio
from datetime import timedelta

import pytest

from service.errors import HoldfastError, Permanent, Transient
from service.zendesk.login import ClientLogin, Token

LIFE = 300.0


class Office:
    """Gives tokens by a simulated clock; notes how many were asked for, and at once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.given = 0
        self.under_way = self.most_under_way = 0
        self.error: HoldfastError | None = None
        self.opened = asyncio.Event()
        self.opened.set()
        self.login = ClientLogin(self.fetch, lambda: self.now)

    async def fetch(self) -> Token:
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


async def test_one_token_serves_all_who_ask_at_once() -> None:
    office = Office()

    headers = await asyncio.gather(*(office.login.header() for _ in range(100)))

    assert (set(headers), office.given, office.most_under_way) == ({"Bearer 1"}, 1, 1)


async def test_nobody_waits_for_a_renewal_while_the_token_is_good() -> None:
    office = Office()
    await office.login.header()
    office.opened.clear()  # from now on no request for a token is answered

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


async def test_a_thousand_lives_cost_a_thousand_tokens_and_no_error() -> None:
    office = Office()

    for _ in range(10_000):
        headers = await asyncio.gather(*(office.login.header() for _ in range(3)))
        office.login.accepted(headers[0])
        await settled()
        office.now += LIFE / 10

    # Renewed at 80 % of each life.
    assert 1000 <= office.given <= 1300
    assert office.most_under_way == 1


async def test_a_token_that_ended_early_is_replaced_once_for_all_who_met_the_refusal() -> None:
    office = Office()

    for renewal in range(1, 1001):
        header = await office.login.header()
        office.login.accepted(header)
        assert all(await asyncio.gather(*(office.login.refused(header) for _ in range(10))))
        assert office.given == renewal + 1
    assert office.most_under_way == 1


async def test_an_office_that_is_away_is_asked_ever_less_often_and_costs_nobody_a_good_token() -> None:
    office = Office()
    await office.login.header()
    office.error = Transient("token_unavailable", "away", counts=False)
    office.now += 0.9 * LIFE

    for _ in range(100):
        assert await office.login.header() == "Bearer 1"
        await settled()

    office.now += LIFE  # it is over
    for _ in range(600):  # ten minutes, ten requests a second
        for _ in range(10):
            with pytest.raises(Transient) as away:
                await office.login.header()
            assert (away.value.code, away.value.counts) == ("token_unavailable", False)
        office.now += 1
    office.error = None
    office.now += 30
    assert await office.login.header() == "Bearer 2"


async def test_how_long_to_wait_is_said_where_nothing_is_asked() -> None:
    office = Office()
    office.error = Transient("token_unavailable", "away", counts=False)
    with pytest.raises(Transient):
        await office.login.header()

    with pytest.raises(Transient) as waits:
        await office.login.header()

    assert waits.value.retry_after is not None
    assert timedelta(0) < waits.value.retry_after <= timedelta(seconds=30)


async def test_a_client_that_is_not_known_is_an_error_for_good() -> None:
    office = Office()
    office.error = Permanent("credentials_refused", "unknown client")

    for _ in range(2):
        with pytest.raises(Permanent) as refused:
            await office.login.header()
        assert refused.value.code == "credentials_refused"


async def test_tokens_that_are_refused_at_once_are_not_asked_for_without_end() -> None:
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


async def test_who_is_cancelled_takes_the_token_from_nobody() -> None:
    office = Office()
    office.opened.clear()
    waiting = [asyncio.create_task(office.login.header()) for _ in range(3)]
    await settled()

    waiting[0].cancel()
    await settled()
    office.opened.set()

    assert await asyncio.gather(*waiting[1:]) == ["Bearer 1"] * 2
    await office.login.close()


def test_a_token_does_not_show_itself() -> None:
    assert "hunter2" not in repr(Token("Bearer hunter2", LIFE))
