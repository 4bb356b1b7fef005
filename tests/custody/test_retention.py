"""Retention: the first rule that matches decides, and the simulator counts what `due` returns."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from service.checks.removals import check_removals
from service.custody import retention, simulation
from service.custody.retention_rules import (
    Change,
    Rule,
    add_rule,
    change_rule,
    load_rules,
    move_rule,
    remove_rule,
    save_rules,
    version_of,
)
from service.errors import Permanent, Rejected
from service.postgres.engine import connect, transaction
from service.postgres.selection import LastingFilter, StoredFilter
from service.resources import Resources
from tests.custody.test_holds import ADA, BOB, add_hold
from tests.support.rows import NOON, add

EVERYTHING = LastingFilter()
FLOOR = 10


@dataclass
class Email:
    """An e-mail as the oracle knows it."""

    id: int
    columns: dict[str, Any]
    days: int | None  # since the end of its job
    sizes: list[int]

    @property
    def needs_attention(self) -> bool:
        has_failed = "failed" in (self.columns["processing_status"], self.columns["sync_status"])
        is_lacking = self.columns["error_code"] == "not_captured"
        return (has_failed or is_lacking) and bool(self.columns["dismissed_attempt"] != 1)

    def matches(self, wanted: StoredFilter) -> bool:
        sender, received_at = self.columns["from_email"], self.columns["received_at"]
        return (
            wanted.ticket in (None, self.columns["zendesk_ticket_id"])
            and (wanted.sender is None or (sender or "").lower() == wanted.sender.lower())
            and (wanted.received_after is None or received_at >= wanted.received_after)
            and (wanted.received_before is None or received_at < wanted.received_before)
        )

    def is_over(self, rule: Rule | None, in_days: int = 0) -> bool:
        is_finished = self.columns["processing_status"] in {"completed", "failed"}
        if rule is None or rule.keep_days is None or self.days is None or not is_finished:
            return False
        is_settled = self.columns["sync_status"] != "pending"
        return is_settled and self.days + in_days >= max(rule.keep_days, FLOOR)

    def is_spared(self, rule: Rule) -> bool:
        return self.needs_attention and not rule.includes_failed


async def any_email(database: asyncpg.Connection, chance: random.Random) -> Email:
    failed = chance.random() < 0.2
    columns: dict[str, Any] = {
        "zendesk_ticket_id": chance.choice("123"),
        "from_email": chance.choice([ADA, ADA.upper(), BOB, None]),
        "received_at": NOON - timedelta(days=400 + chance.randrange(10)),
        "processing_status": "failed" if failed else chance.choice(["queued", *5 * ["completed"]]),
        "error_code": chance.choice(["gone", None])
        if failed
        else chance.choice(["not_captured", *5 * [None]]),
        "sync_status": chance.choice(["pending", "failed", *4 * ["synced"]]),
        "dismissed_attempt": chance.choice([1, None]),
        "dismissed_sync_attempt": 1,
        "attempt_number": 1,
        "sync_attempt_number": 1,
        "idempotency_key": str(chance.random()),
    }
    email_id, days = await add(database, **columns), chance.choice([None, *range(40)])
    if days is not None:
        end = "UPDATE incoming_emails SET completed_at = now() - $2::interval WHERE id = $1"
        await database.execute(end, email_id, timedelta(days=days, hours=12))
    sizes = [chance.randrange(1000) for _ in range(chance.randrange(3))]
    for position, size in enumerate(sizes):
        stored = {"status": "stored", "source_url": "", "size": size}
        await add(database, "attachments", email_id=email_id, position=position, **stored)
    return Email(email_id, columns, days, sizes)


def any_rules(chance: random.Random) -> list[Rule]:
    since = NOON - timedelta(days=400 + chance.randrange(10))
    filters = [
        {},
        {"ticket": "1"},
        {"ticket": "2"},
        {"sender": ADA},
        {"sender": BOB, "received_after": since},
    ]
    return [
        Rule(
            f"rule-{place}",
            LastingFilter.model_validate(chance.choice([*filters, {"received_before": since}])),
            chance.choice([None, FLOOR, 20, 30, 380]),
            chance.random() < 0.3,
        )
        for place in range(chance.randrange(1, 5))
    ]


async def change(res: Resources, make: Callable[[list[Rule]], Change]) -> list[Rule]:
    """Change the rules as a person does; return the new list."""
    async with connect(res.engine) as conn:
        rules = await load_rules(conn)
        await save_rules(res, make(rules), "ada (tests)")
        return await load_rules(conn)


async def put(database: asyncpg.Connection, rules: Sequence[Rule]) -> None:
    """Save rules past the service."""
    await database.execute("DELETE FROM retention_rules")
    for position, rule in enumerate(rules):
        columns = {**rule.columns, "filter": rule.filter.model_dump_json(exclude_none=True)}
        await add(database, "retention_rules", position=position, created_by="ada", **columns)


def rule_of(email: Email, rules: Sequence[Rule]) -> Rule | None:
    return next((rule for rule in rules if email.matches(rule.filter)), None)


def expected(
    emails: Sequence[Email], rules: Sequence[Rule], held: set[int], in_days: int = 0
) -> list[tuple[int, str]]:
    """Return what is due by id, in the words of the oracle."""
    decided = ((email, rule_of(email, rules)) for email in emails)
    return [
        (email.id, rule.name)
        for email, rule in decided
        if rule and email.is_over(rule, in_days) and not email.is_spared(rule) and email.id not in held
    ]


async def test_due_and_simulator_agree_with_an_oracle(res: Resources, database: asyncpg.Connection) -> None:
    """Random e-mails, and for each of many random lists of rules what is due, in steps of a few rows."""
    chance = random.Random(4711)
    emails = [await any_email(database, chance) for _ in range(60)]
    held = {email.id for email in emails if email.columns["zendesk_ticket_id"] == "3" and email.id % 2}
    await add_hold(database, "lawsuit", None, *held)
    seen = 0
    async with connect(res.engine) as conn:
        for _ in range(30):
            rules = any_rules(chance)
            await put(database, rules)
            right = expected(emails, rules, held)
            limit = chance.choice([1, 5, 100])

            found = await retention.due(conn, 0, limit, floor_days=FLOOR, examined=7)
            after = await retention.due(conn, emails[30].id, 100, floor_days=FLOOR)
            async with transaction(conn):
                locked = await retention.lock_due(conn, [email.id for email in emails], floor_days=FLOOR)
            result = await simulation.simulate(res.engine, rules, FLOOR, examined=11)

            assert found == right[:limit]
            assert after == [each for each in right if each[0] > emails[30].id]
            assert locked == right
            assert (result.examined, result.is_complete) == (60, True)
            assert result.without_rule == sum(rule_of(email, rules) is None for email in emails)
            for outcome in result.outcomes:
                check(outcome, emails, rules, held)
            seen += len(right)
    assert seen > 100


def check(
    outcome: simulation.RuleOutcome, emails: Sequence[Email], rules: Sequence[Rule], held: set[int]
) -> None:
    """Compare the simulator's numbers of one rule with the oracle."""
    rule = outcome.rule
    mine = [email for email in emails if rule_of(email, rules) is rule]
    over = [email for email in mine if email.is_over(rule)]
    spared = [email for email in over if email.is_spared(rule)]
    volumes = []
    for in_days in (0, 365):
        ids = {email_id for email_id, _ in expected(mine, rules, held, in_days)}
        sizes = [email.sizes for email in mine if email.id in ids]
        volumes.append(simulation.Volume(len(sizes), sum(map(len, sizes)), sum(map(sum, sizes))))
    due_now = [email_id for email_id, _ in expected(mine, rules, held)]

    assert [outcome.now, outcome.within_year] == volumes
    assert outcome.matching == len(mine)
    assert outcome.held == sum(email.id in held for email in over)
    assert outcome.needing_attention == sum(email.id not in held for email in spared)
    assert outcome.examples == due_now[: simulation.EXAMPLES]


async def test_rules_are_edited_one_by_one_and_each_change_is_on_record(
    res: Resources, database: asyncpg.Connection
) -> None:
    one, two = Rule("one", EVERYTHING, 365), Rule("two", LastingFilter(ticket="1"), None)
    lists = [
        await change(res, lambda rules: add_rule(rules, one)),
        await change(res, lambda rules: add_rule(rules, two, 1)),
        await change(res, lambda rules: move_rule(rules, "one", 1)),
        await change(res, lambda rules: change_rule(rules, "one", replace(one, keep_days=30))),
        await change(res, lambda rules: remove_rule(rules, "two")),
    ]

    shorter = replace(one, keep_days=30)
    assert lists == [[one], [two, one], [one, two], [shorter, two], [shorter]]
    actions = await database.fetch("SELECT action, subject, reason FROM operator_actions ORDER BY id")
    assert [tuple(row) for row in actions] == [
        ("add_rule", "one", "one: 365 d"),
        ("add_rule", "two", "two: for ever; one: 365 d"),
        ("move_rule", "one", "one: 365 d; two: for ever"),
        ("change_rule", "one", "one: 30 d; two: for ever"),
        ("remove_rule", "two", "one: 30 d"),
    ]


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ([Rule("one", EVERYTHING, 29)], "rule_wrong"),  # less than RETENTION_FLOOR_DAYS
        ([Rule("one", EVERYTHING, 10**6)], "rule_wrong"),
        ([Rule("One!", EVERYTHING, 30)], "rule_wrong"),
        ([Rule("one", EVERYTHING, 30), Rule("one", EVERYTHING, None)], "rule_wrong"),
    ],
)
async def test_a_wrong_list_of_rules_is_refused_and_the_old_one_stays(
    res: Resources, rules: list[Rule], code: str
) -> None:
    old = await change(res, lambda rules: add_rule(rules, Rule("old", EVERYTHING, None)))
    with pytest.raises(Rejected) as error:
        await change(res, lambda _: Change(rules, version_of(old), "set_rules"))

    assert (error.value.status, error.value.code) == (409, code)
    async with connect(res.engine) as conn:
        assert await load_rules(conn) == old


async def test_a_change_of_a_list_that_somebody_changed_meanwhile_is_refused(res: Resources) -> None:
    seen: list[Rule] = []
    await change(res, lambda rules: add_rule(rules, Rule("of-another", EVERYTHING, None)))

    with pytest.raises(Rejected) as error:
        await save_rules(res, add_rule(seen, Rule("mine", EVERYTHING, 30)), "bob (tests)")

    assert (error.value.status, error.value.code) == (409, "rules_changed")


async def test_a_rule_of_a_newer_version_stops_all_deletions(
    res: Resources, database: asyncpg.Connection
) -> None:
    newer = {"name": "newer", "filter": '{"colour": "red"}', "keep_days": None}
    await add(database, "retention_rules", position=0, created_by="ada", **newer)
    await add(
        database, "retention_rules", position=1, created_by="ada", name="all", filter="{}", keep_days=30
    )

    async with connect(res.engine) as conn:
        with pytest.raises(Permanent, match="newer version"):
            await retention.due(conn, 0, 10, floor_days=30)


async def test_a_rule_that_can_match_nothing_stops_all_deletions_until_a_person_removes_it(
    res: Resources, database: asyncpg.Connection
) -> None:
    """An earlier version accepted it: what it was to keep for ever must not go by the next rule."""
    earlier = {"name": "earlier", "filter": '{"ticket": ""}', "keep_days": None}
    await add(database, "retention_rules", position=0, created_by="ada", **earlier)

    async with connect(res.engine) as conn:
        with pytest.raises(Permanent, match="earlier can match no e-mail"):
            await retention.due(conn, 0, 10, floor_days=30)
        await change(res, lambda rules: remove_rule(rules, "earlier"))

        assert await retention.due(conn, 0, 10, floor_days=30) == []


async def test_a_rule_of_an_earlier_version_keeps_what_it_names_although_it_has_a_blank(
    res: Resources, database: asyncpg.Connection
) -> None:
    for ticket in ("1", "2"):
        email_id = await add(
            database,
            zendesk_ticket_id=ticket,
            idempotency_key=ticket,
            processing_status="completed",
            sync_status="synced",
        )
    await database.execute(
        "UPDATE incoming_emails SET (received_at, completed_at) = (now() - interval '91 days', now() - interval '90 days')"
    )
    kept = {"name": "kept", "filter": '{"ticket": " 1 "}', "keep_days": None}
    await add(database, "retention_rules", position=0, created_by="ada", **kept)
    await add(
        database, "retention_rules", position=1, created_by="ada", name="all", filter="{}", keep_days=30
    )

    async with connect(res.engine) as conn:
        due = await retention.due(conn, 0, 10, floor_days=30)

    assert due == [retention.Due(email_id, "all")]


async def test_a_check_tells_that_a_rule_of_an_earlier_version_stops_all(
    res: Resources, database: asyncpg.Connection
) -> None:
    before = await check_removals(res)
    await add(
        database,
        "retention_rules",
        id=1,
        position=1,
        name="earlier",
        filter='{"ticket": ""}',
        created_by="ada",
    )

    check = await check_removals(res)

    assert before.ok
    assert check.ok is None
    assert check.found.startswith("retention rules delete nothing: Rule earlier can match no e-mail")
