"""The list of retention rules: read it, edit it, and save it as a whole."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from pydantic import ValidationError
from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody.holds import NAME, NAME_RULE
from service.errors import Permanent, Rejected
from service.jobs.retries import record_act
from service.postgres.engine import connect, transaction
from service.postgres.held_emails import take_custody
from service.postgres.hold_tables import RetentionRule
from service.postgres.selection import LastingFilter, StoredFilter, read_filter
from service.resources import Resources

MOST_RULES = 100
MOST_DAYS = 36_500

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rule:
    """E-mails that match the filter are kept for some days after the end of their job; None: for ever.

    `includes_failed`: the rule also deletes e-mails that need attention.
    """

    name: str
    filter: StoredFilter
    keep_days: int | None
    includes_failed: bool = False

    @property
    def columns(self) -> dict[str, object]:
        return {
            "name": self.name,
            "filter": self.filter.model_dump(mode="json", exclude_none=True),
            "keep_days": self.keep_days,
            "includes_failed": self.includes_failed,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """A new list of rules, the version of the list that it was made of, and which rule a person changed."""

    rules: Sequence[Rule]
    version: str
    action: str  # a word for the list of actions: add_rule, change_rule, move_rule, remove_rule, set_rules
    subject: str | None = None


async def load_rules(conn: AsyncConnection) -> list[Rule]:
    """Return the rules in their order.

    Raises Permanent for a rule of a newer version: nothing may be deleted by a list that is not understood.
    """
    rows = await conn.execute(select(RetentionRule.__table__).order_by(RetentionRule.position))
    try:
        return [Rule(row.name, read_filter(row.filter), row.keep_days, row.includes_failed) for row in rows]
    except ValidationError:
        raise Permanent("rule_unreadable", "A newer version of Holdfast wrote a retention rule.") from None


async def load_binding_rules(conn: AsyncConnection) -> list[Rule]:
    """Return the rules to delete by.

    Raises Permanent also for a rule of an earlier version that can match no e-mail: what it was to keep must not go.
    """
    rules = await load_rules(conn)
    for rule in rules:
        if not isinstance(rule.filter, LastingFilter):
            message = f"Rule {rule.name} can match no e-mail: correct its filter, or remove it."
            raise Permanent("rule_unreadable", message)
    return rules


def version_of(rules: Sequence[Rule]) -> str:
    """Return a short hash of a list: a change names the list that the person saw."""
    content = json.dumps([rule.columns for rule in rules], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def check_rules(rules: Sequence[Rule], floor_days: int) -> None:
    """Raise Rejected (409) for a list that cannot be saved."""
    names = [rule.name for rule in rules]
    if len(rules) > MOST_RULES:
        raise Rejected(409, "rule_wrong", f"There may be {MOST_RULES} rules.")
    for rule in rules:
        if not NAME.fullmatch(rule.name):
            raise Rejected(409, "rule_wrong", NAME_RULE)
        if names.count(rule.name) > 1:
            raise Rejected(409, "rule_wrong", f"Two rules have the name {rule.name}: choose another.")
        if rule.keep_days is not None and not floor_days <= rule.keep_days <= MOST_DAYS:
            least = f"RETENTION_FLOOR_DAYS is {floor_days}, a guard against slips: lower it only on purpose"
            message = f"Rule {rule.name} must keep e-mails for {floor_days} to {MOST_DAYS} days: {least}."
            raise Rejected(409, "rule_wrong", message)


async def save_rules(res: Resources, change: Change, actor: str) -> None:
    """Replace the list of rules; waits for deletions that have begun, and none goes on by the old list.

    Raises Rejected (409) for a list that is wrong, or if somebody changed the list meanwhile.
    """
    check_rules(change.rules, res.settings.retention_floor_days)
    async with connect(res.engine) as conn, transaction(conn):
        await take_custody(conn)
        before = await load_rules(conn)
        if version_of(before) != change.version:
            raise Rejected(409, "rules_changed", "Somebody changed the rules meanwhile. Look at them again.")
        kept = {rule.name for rule in before if rule in change.rules}
        rows = await conn.execute(select(RetentionRule.__table__).where(RetentionRule.name.in_(kept)))
        origins = {row.name: {"created_at": row.created_at, "created_by": row.created_by} for row in rows}
        await conn.execute(delete(RetentionRule))
        for position, rule in enumerate(change.rules):
            origin = origins.get(rule.name, {"created_by": actor})
            await conn.execute(insert(RetentionRule).values(position=position, **rule.columns, **origin))
        await record_act(conn, actor, change.action, subject=change.subject, reason=_said(change.rules))
    log.info("retention_rules_saved", rules=len(change.rules), action=change.action)


def add_rule(rules: Sequence[Rule], rule: Rule, position: int | None = None) -> Change:
    """Add a rule at a position that counts from 1, or at the end."""
    place = len(rules) if position is None else position - 1
    return Change([*rules[:place], rule, *rules[place:]], version_of(rules), "add_rule", rule.name)


def change_rule(rules: Sequence[Rule], name: str, changed: Rule) -> Change:
    """Replace a rule at its position; raises Rejected (404)."""
    place = _place(rules, name)
    return Change([*rules[:place], changed, *rules[place + 1 :]], version_of(rules), "change_rule", name)


def move_rule(rules: Sequence[Rule], name: str, position: int) -> Change:
    """Move a rule to a position that counts from 1; raises Rejected (404)."""
    rule = rule_of(rules, name)
    others = [each for each in rules if each is not rule]
    others.insert(position - 1, rule)
    return Change(others, version_of(rules), "move_rule", name)


def remove_rule(rules: Sequence[Rule], name: str) -> Change:
    """Remove a rule; raises Rejected (404)."""
    place = _place(rules, name)
    return Change([*rules[:place], *rules[place + 1 :]], version_of(rules), "remove_rule", name)


def rule_of(rules: Sequence[Rule], name: str) -> Rule:
    """Return the rule of a name; raises Rejected (404)."""
    return rules[_place(rules, name)]


def _place(rules: Sequence[Rule], name: str) -> int:
    for place, rule in enumerate(rules):
        if rule.name == name:
            return place
    raise Rejected(404, "rule_not_found", "There is no retention rule of this name.")


def _said(rules: Sequence[Rule]) -> str:
    """Write the new list for the record of actions: this is what later purges went by."""
    each = (
        f"{rule.name}: {'for ever' if rule.keep_days is None else f'{rule.keep_days} d'}" for rule in rules
    )
    return "; ".join(each) or "no rules"
