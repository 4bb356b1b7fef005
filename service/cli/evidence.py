"""`holdfast evidence`: the state of the evidence log, its verification, signed heads and exports."""

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.environment import actor, env_file, with_engine, with_resources
from service.cli.filters import ID
from service.cli.terminal import json_option, print_facts, print_json, print_line, progress
from service.cli.times import TIME, TIME_HELP, shown_time
from service.cli.writing import opened_output
from service.formatting import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.evidence.findings import Report
    from service.evidence.verify import Verification
    from service.queries.evidence import EvidenceView
    from service.resources import Resources

MOST_SHOWN = 20


@click.group()
def evidence() -> None:
    """Prove that nothing on record was changed."""


@evidence.command()
@json_option
@env_file
def status(*, as_json: bool) -> None:
    """Show the size and the newest head of the log.

    The last verification is shown, too.
    """
    view = with_engine(_read)
    if as_json:
        print_json(view)
    else:
        _print_status(view)


@evidence.command()
@click.option(
    "--no-objects", is_flag=True, help="Read no stored objects; `holdfast storage verify` does that, too."
)
@click.option("--again", is_flag=True, help="Begin anew, also where one was stopped less than a day ago.")
@json_option
@env_file
def verify(*, no_objects: bool, again: bool, as_json: bool) -> None:
    """Compare everything on record with the log.

    Heads and storage are compared, too. A verification that was stopped goes on.
    Exits with 0 if nothing was found, and 1 if anything was, or the verification could not end.
    """
    from service.evidence.verify import verify as run

    async def work(res: "Resources") -> "Verification":
        with progress("Verifying") as tell:

            def watch(part: str, report: "Report") -> None:
                tell(sum(report.counts.get(name, 0) for name in ("leaves", "emails", "objects")), part)

            return await run(res, with_objects=not no_objects, again=again, watch=watch)

    found = with_resources(work)
    if as_json:
        print_json(
            {
                "is_good": found.is_good,
                "began_at": found.began_at.isoformat(),
                "ended_at": found.ended_at and found.ended_at.isoformat(),
                "with_objects": found.with_objects,
                "counts": dict(found.counts),
                "findings": [dict(each) for each in found.findings],
            }
        )
    else:
        _print_verification(found)
    sys.exit(0 if found.is_good else 1)


@evidence.command()
@env_file
def head() -> None:
    """Sign a head now, and put it into the storage."""
    from service.evidence.work import make_head

    made = with_resources(make_head)
    print_line(f"Head {made} is signed, and in the storage.")


@evidence.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@env_file
def record(*, yes: bool) -> None:
    """Record rows that have no entry in the log.

    There are such after a time with the version before this one.
    Each is marked as recorded later, with the time. Look at the findings of a verification first: somebody may have
    inserted these rows.
    """
    from service.evidence.later import record_all

    if not yes:
        click.confirm("Record every row without an entry?", abort=True)
    recorded = with_resources(lambda res: record_all(res, actor()))
    print_line(f"{number(recorded)} facts recorded, marked as later.")


@evidence.command()
@click.option("--email", "email_ids", type=ID, multiple=True, help="This e-mail; may be repeated.")
@click.option("--ticket", help="E-mails of this ticket.")
@click.option("--since", type=TIME, help=f"E-mails received at this time or later, {TIME_HELP}.")
@click.option("--until", type=TIME, help="E-mails received before this time.")
@click.option(
    "--to",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Write to this file; it appears whole or not at all.",
)
@env_file
def export(
    *,
    email_ids: tuple[int, ...],
    ticket: str | None,
    since: datetime | None,
    until: datetime | None,
    path: Path,
) -> None:
    """Export e-mails with proofs.

    A program is among them that checks the proofs without Holdfast.
    """
    from service.queries.evidence_archive import Request
    from service.queries.evidence_archive import export as write

    if not (email_ids or ticket or since or until):
        raise click.UsageError("Give --email, --ticket, --since or --until.")
    if since and until and until <= since:
        raise click.UsageError("--until must be later than --since.")
    wanted = Request(email_ids, ticket, since, until)
    with opened_output(path) as file:
        done = with_resources(lambda res: write(res, wanted, file))
    print_line(
        f"{path}: {number(done.emails)} e-mails, {number(done.files)} files, {number(done.leaves)} facts."
    )
    for name in done.missing:
        click.echo(f"Missing: {name}", err=True)
    sys.exit(1 if done.missing else 0)


async def _read(engine: "AsyncEngine") -> "EvidenceView":
    from service.config.reading import read_settings
    from service.queries.evidence import get_evidence

    return await get_evidence(engine, read_settings("database_url"))


def _print_status(view: "EvidenceView") -> None:
    if view.log_id is None or view.began_at is None:
        print_line("The log has not begun: start a worker.")
        return
    newest, last = view.head, view.verification
    facts: list[tuple[str, object]] = [
        ("log", view.log_id),
        ("since", shown_time(view.began_at)),
        ("facts", f"{number(view.size)}{', more are waiting' if view.waiting else ''}"),
        ("signing key", "EVIDENCE_KEY" if view.key == "setting" else "in Postgres: EVIDENCE_KEY is not set"),
    ]
    if newest is not None:
        stored = shown_time(newest.stored_at) if newest.stored_at else "not yet"
        facts += [
            ("newest head", f"{newest.number} of {shown_time(newest.at)}, {number(newest.size)} facts"),
            ("root", newest.root),
            ("public key", newest.public_key),
            ("in storage", f"{newest.object_key}, {stored}"),
            (
                "time stamp",
                shown_time(newest.stamped_at) if newest.stamped_at else newest.stamp_error or "none",
            ),
        ]
    if last is not None:
        findings = last.counts.get("findings", 0)
        verdict = f"{number(findings)} findings" if findings else "nothing was changed"
        facts.append(("last verification", f"{shown_time(last.ended_at)}: {verdict}"))
    print_facts(facts)
    if last is not None:
        _print_findings(last.findings, last.counts.get("findings", 0))


def _print_verification(found: "Verification") -> None:
    counts = found.counts
    what = ", ".join(
        f"{number(counts[name])} {name.replace('_', ' ')}"
        for name in sorted(counts)
        if name not in {"findings", "size"}
    )
    print_line(f"Verified: {what}.")
    if found.is_good:
        print_line("Everything is as it was logged.")
        return
    _print_findings(found.findings, counts["findings"])


def _print_findings(findings: "Sequence[Mapping[str, Any]]", count: int) -> None:
    for each in findings[:MOST_SHOWN]:
        print_line(f"{each['code']}: {each['message']}")
    if count > MOST_SHOWN:
        print_line(f"… and {number(count - MOST_SHOWN)} more; --json has them.")
