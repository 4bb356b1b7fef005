"""Away: the speed of a worker when Redis or Postgres is some milliseconds away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from benchmarks.results import Section, ratio
from benchmarks.services import HOLDFAST, prepare
from benchmarks.testbed import Testbed, first_output, program, python
from benchmarks.work import FILE_BYTES, WorkResult, process_emails, serve_files, speeds

_AWAY_SECONDS = 0.0025  # each way
_HERE, _REDIS, _POSTGRES = "here", "redis", "postgres"

_HEADER = ("", "e-mails/s, of those without a delay")
_ABOUT = f"""As in "Work", but a proxy delays the traffic to one server by {_AWAY_SECONDS * 1000:g} ms in each direction. A proxy without a delay
costs time, too, so all three measurements use proxies: compare them only with each other."""


async def run(testbed: Testbed, rounds: int, quick: bool) -> Section:  # noqa: FBT001 one of the parts
    """Measure this part, and return its section."""
    await prepare(testbed)
    done: dict[str, list[WorkResult]] = {_HERE: [], _REDIS: [], _POSTGRES: []}
    async with serve_files(testbed, FILE_BYTES) as files:
        for _ in range(rounds):
            for name, rounds_done in done.items():
                async with _proxies(testbed, name) as variables:
                    emails = 40 if quick else 400
                    rounds_done.append(await process_emails(testbed, HOLDFAST, files, emails, variables))
    rows = [
        (title, ratio(speeds(done[name]), speeds(done[_HERE])))
        for name, title in ((_REDIS, "Redis is away"), (_POSTGRES, "Postgres is away"))
    ]
    return Section("Away", _ABOUT, _HEADER, rows, ())


@asynccontextmanager
async def _proxies(testbed: Testbed, far: str) -> AsyncIterator[dict[str, str]]:
    """Start a proxy for each server, with a delay for `far`; yield the settings that use them."""
    sockets = parse_qs(urlsplit(testbed.database_url).query)["host"][0]
    arguments = [
        f"{sockets}/.s.PGSQL.5432",
        str(_AWAY_SECONDS if far == _POSTGRES else 0),
        urlsplit(testbed.redis_url).path,
        str(_AWAY_SECONDS if far == _REDIS else 0),
    ]
    async with program(
        testbed, "delays", python("-m", "benchmarks.delays", *arguments), testbed.variables("none")
    ) as proxies:
        postgres, redis = (await first_output(testbed, "delays", proxies)).split()
        yield {
            "DATABASE_URL": f"postgresql://postgres:any@127.0.0.1:{postgres}/{HOLDFAST.name}?sslmode=disable",
            "REDIS_URL": f"redis://127.0.0.1:{redis}/0",
        }
