"""Large files: their speed through a worker, and its memory."""

from benchmarks.results import Section, at_least, below, ratio, spread
from benchmarks.services import HOLDFAST, prepare
from benchmarks.testbed import Testbed
from benchmarks.work import CPU_HEADER, cpu_ratios, loop_bare, process_emails, serve_files, speeds

_AT_ONCE = 20
_LARGE_BYTES = 50_000_000
_MIB = 1024**2

_HEADER = ("", "files/s, of the limit", "of Holdfast", *CPU_HEADER, "peak memory, MiB")
_ABOUT = f"""One worker processes {_AT_ONCE} e-mails at once, with a file of {_LARGE_BYTES // 10**6} MB each; the time is measured as in "Work". The limits
are bare loops with as many downloads at once. Every file was compared with the served bytes."""


async def run(testbed: Testbed, rounds: int, quick: bool) -> Section:  # noqa: FBT001 one of the parts
    """Measure this part, and return its section."""
    await prepare(testbed)
    limit, careful, holdfast = [], [], []
    async with serve_files(testbed, _LARGE_BYTES // (50 if quick else 1)) as files:
        for _ in range(rounds):
            limit.append(await loop_bare(testbed, files, _AT_ONCE, _AT_ONCE, careful=False))
            careful.append(await loop_bare(testbed, files, _AT_ONCE, _AT_ONCE, careful=True))
            holdfast.append(await process_emails(testbed, HOLDFAST, files, _AT_ONCE))
    speed = ratio(speeds(holdfast), speeds(limit))
    memory = spread(done.peak_bytes / _MIB for done in holdfast)
    rows = [
        (
            title,
            ratio(speeds(done), speeds(limit)),
            ratio(speeds(done), speeds(holdfast)),
            *cpu_ratios(done, limit),
            memory if done is holdfast else "",
        )
        for title, done in (
            ("limit: aiohttp downloads into files, nothing else", limit),
            ("the same, with SHA-256 and fsync of each file", careful),
            ("**Holdfast**", holdfast),
        )
    ]
    aims = (at_least(0.62, "of the limit", speed), below(170, "MiB of memory", memory))
    return Section("Large files", _ABOUT, _HEADER, rows, aims)
