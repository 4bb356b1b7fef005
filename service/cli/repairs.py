"""Wait for what a run began to put right, and tell what could not be."""

from typing import TYPE_CHECKING

import click

from service.cli.terminal import progress
from service.formatting import printable

if TYPE_CHECKING:
    from service.resources import Resources

LOOK_SECONDS = 0.5


async def wait_for_repairs(res: "Resources", run_id: int) -> bool:
    """Wait until every e-mail is finished again; name those that failed, and return whether there are none."""
    import asyncio

    from service.reconcile.repair import count_running, list_failed

    begun = await count_running(res, run_id)
    with progress("Waiting", begun) as tell:
        while left := await count_running(res, run_id):
            tell(begun - left, "")
            await asyncio.sleep(LOOK_SECONDS)
    failed = await list_failed(res, run_id)
    for email_id, reason in failed:
        click.echo(printable(f"e-mail {email_id} could not be put right: {reason}"), err=True)
    return not failed
