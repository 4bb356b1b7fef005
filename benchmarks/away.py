"""Away: what becomes of the work when Redis, or Postgres, is some milliseconds away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from benchmarks.field import HOLDFAST, prepare
from benchmarks.ground import Ground, program, python, words_of
from benchmarks.results import Section, ratio
from benchmarks.work import FILE_BYTES, Done, serve_files, speeds, work_off

_AWAY_SECONDS = 0.0025  # each way
_HERE, _REDIS, _POSTGRES = "here", "redis", "postgres"

_HEADER = ("", "e-mails/s, of those with both at hand")
_ABOUT = f"""As in "Work", but the worker's way to a server has {_AWAY_SECONDS * 1000:g} ms more, and as much back. All three have
the same way, through a proxy, which without a delay costs time, too: compare these with each other only."""


async def run(ground: Ground, rounds: int, quick: bool) -> Section:  # noqa: FBT001 one of the parts
    """Measure, and put it into words."""
    await prepare(ground)
    done: dict[str, list[Done]] = {_HERE: [], _REDIS: [], _POSTGRES: []}
    async with serve_files(ground, FILE_BYTES) as files:
        for _ in range(rounds):
            for name, rounds_done in done.items():
                async with _ways(ground, name) as variables:
                    emails = 40 if quick else 400
                    rounds_done.append(await work_off(ground, HOLDFAST, files, emails, variables))
    rows = [
        (title, ratio(speeds(done[name]), speeds(done[_HERE])))
        for name, title in ((_REDIS, "Redis is away"), (_POSTGRES, "Postgres is away"))
    ]
    return Section("Away", _ABOUT, _HEADER, rows, ())


@asynccontextmanager
async def _ways(ground: Ground, far: str) -> AsyncIterator[dict[str, str]]:
    """Lay a way to each server, one of them long; yield the settings that lead there."""
    sockets = parse_qs(urlsplit(ground.database_url).query)["host"][0]
    arguments = [
        f"{sockets}/.s.PGSQL.5432",
        str(_AWAY_SECONDS if far == _POSTGRES else 0),
        urlsplit(ground.redis_url).path,
        str(_AWAY_SECONDS if far == _REDIS else 0),
    ]
    async with program(
        ground, "ways", python("-m", "benchmarks.ways", *arguments), ground.variables("none")
    ) as ways:
        postgres, redis = (await words_of(ground, "ways", ways)).split()
        yield {
            "DATABASE_URL": f"postgresql://postgres:any@127.0.0.1:{postgres}/{HOLDFAST.name}?sslmode=disable",
            "REDIS_URL": f"redis://127.0.0.1:{redis}/0",
        }
