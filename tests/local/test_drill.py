"""The drill proves the promise, can fail, and leaves nothing behind."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.cli.main import main
from service.local.drill.installation import find_faketime, has_collection
from service.local.drill.plan import ALL, SKEW, DrillPlan, choose, turns
from tests.support import forked
from tests.support.processes import ROOT, linux, processes, wait_for


class Drill:
    """A drill in a process of its own, with a temporary directory of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self._output = directory / "output"
        words = ["tests.support.drilling", "--seed", "7", *options]
        variables = {**os.environ, "TMPDIR": str(self.temporary)}
        with Path(os.devnull).open() as nothing, self._output.open("wb") as output:
            streams = (nothing.fileno(), output.fileno(), output.fileno())
            self.process = forked.Program(words, variables, ROOT, streams)

    def output(self) -> str:
        return self._output.read_text()

    def wait(self, seconds: float) -> int:
        """Wait for the end; print the output, for a failing test, and return the exit code."""
        try:
            wait_for(lambda: self.process.returncode is not None, seconds, pause=0.2)
            return self.process.returncode or 0
        finally:
            sys.stdout.write(self.output())

    def family(self) -> set[int]:
        """List its live processes: each has its directory as argument, in its environment, or open."""
        found = set(processes(str(self.temporary)))
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                opened = {each.readlink() for each in (process / "fd").iterdir()}
                if (
                    self.temporary in opened
                    or str(self.temporary).encode() in (process / "environ").read_bytes()
                ):
                    found.add(int(process.name))
        return found

    def is_anything_paused(self) -> bool:
        # proc(5): the state is the first field after the name, which is in parentheses.
        stats = (Path(f"/proc/{pid}/stat") for pid in self.family())
        return any(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats if stat.exists())

    def wait_until_nothing_is_left(self) -> None:
        """Fail where a process or a file stays; the drill's fork server ends a moment after the drill."""
        wait_for(lambda: self.family() == set() and list(self.temporary.iterdir()) == [], 30, pause=0.2)


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Callable[..., Drill]]:
    """Start a drill; it ends with the test."""
    started: list[Drill] = []

    def start(*options: str) -> Drill:
        started.append(Drill(tmp_path, *options))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        for pid in one.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def figure(output: str, name: str) -> str:
    """Return the verdict's figure of this name."""
    found = re.search(rf"^ +{re.escape(name)} +(.+)$", output, flags=re.MULTILINE)
    assert found, f"the verdict has no {name}"
    return found[1]


def number(text: str) -> int:
    """Return the number at the start of a figure."""
    return int(re.split(r"[^0-9,]", text)[0].replace(",", ""))


def problems(output: str) -> dict[str, int]:
    names = ("lost", "duplicated", "wrong bytes", "broken otherwise")
    return {name: int(figure(output, name).split()[0].replace(",", "")) for name in names}


NONE = {"lost": 0, "duplicated": 0, "wrong bytes": 0, "broken otherwise": 0}


@linux
@pytest.mark.long
@pytest.mark.timeout(480)
def test_no_fault_loses_or_duplicates_anything(drill: Callable[..., Drill]) -> None:
    """Every known fault is injected at least once while webhooks arrive."""
    drilled = drill("--seconds", "30", "--rate", "5")
    code = drilled.wait(420)
    output = drilled.output()

    assert code == 0
    assert problems(output) == NONE
    assert "Nothing was lost." in output
    expected = set(ALL) - (set() if find_faketime() else {SKEW})
    effective = {
        f"{part}.{kind.partition(' ')[0]}"
        for part in {fault.partition(".")[0] for fault in expected}
        for kind in figure(output, part).split(", ")
    }
    assert effective == expected
    assert "had no effect" not in output
    assert int(figure(output, "e-mails completed").replace(",", "")) > 75
    assert figure(output, "sync failed") == "1: document_refused 1"
    drilled.wait_until_nothing_is_left()


def test_a_drill_without_faults_keeps_its_data_in_the_given_directory(
    drill: Callable[..., Drill], tmp_path: Path
) -> None:
    directory = tmp_path / "a drill #7 %41"
    for leftover in (
        "drill.log",
        "objects/sha256/00/11",
        "postgres/data/PG_VERSION",
        "fault_points/after_claim",
        "messages",
    ):
        (directory / leftover).parent.mkdir(parents=True, exist_ok=True)
        (directory / leftover).write_text("kill")
    drilled = drill("--seconds", "5", "--rate", "4", "--faults", "none", "--data-dir", str(directory))
    code = drilled.wait(100)
    output = drilled.output()

    assert code == 0
    assert problems(output) == NONE
    assert figure(output, "faults") == "none"
    assert figure(output, "acknowledged") == "20"
    objects = [path for path in (directory / "objects" / "sha256").rglob("*") if path.is_file()]
    assert f" in {len(objects)} objects" in figure(output, "files stored")
    emails = number(figure(output, "e-mails completed")) + number(figure(output, "e-mails failed"))
    assert number(figure(output, "synced")) == emails
    # An e-mail that was merged after its sync leaves a document, too.
    merged = number(figure(output, "messages").partition("; ")[2])
    equal = re.fullmatch(
        r"(?:(\d+) in the collection|no collection); (\d+) at the receiver, in \d+ messages",
        figure(output, "equal documents"),
    )
    assert equal
    assert {int(each) for each in equal.groups() if each} <= {*range(emails, emails + merged + 1)}
    assert bool(equal[1]) == has_collection()
    assert figure(output, "calls to Zendesk")
    assert "supervisor: ending" in (directory / "drill.log").read_text()
    drilled.wait_until_nothing_is_left()


@pytest.mark.timeout(300)
def test_a_drill_that_loses_files_and_messages_fails(drill: Callable[..., Drill], tmp_path: Path) -> None:
    directory = tmp_path / "data"
    drilled = drill("--seconds", "5", "--rate", "4", "--faults", "none", "--data-dir", str(directory))

    def objects() -> list[Path]:
        return list(directory.glob("objects/sha256/*/*"))

    wait_for(lambda: len(objects()) > 8, 120)
    for path in objects()[:8]:
        path.unlink()
    wait_for(lambda: (directory / "messages").exists() and (directory / "messages").stat().st_size, 120)
    os.truncate(directory / "messages", 0)
    code = drilled.wait(100)
    output = drilled.output()

    assert code == 1
    assert problems(output)["lost"] > 1
    assert "has no object for " in output
    assert "is not at the receiver" in output
    assert "The promise was broken." in output
    assert "Nothing was lost." not in output


@linux
@pytest.mark.timeout(400)
def test_a_signal_ends_a_drill_without_a_verdict_and_without_leftovers(drill: Callable[..., Drill]) -> None:
    """Paused processes end, too. That each signal ends a supervisor is a test of its own."""
    drilled = drill("--seconds", "5", "--rate", "5", "--faults", "web.freeze,worker.freeze")
    wait_for(drilled.is_anything_paused, 240, pause=0.2)
    drilled.process.send_signal(signal.SIGTERM)
    code = drilled.wait(90)

    assert code == 1
    assert drilled.output().endswith("The drill was interrupted: no verdict.\n")
    assert "lost" not in drilled.output()
    drilled.wait_until_nothing_is_left()


def test_a_directory_without_an_earlier_drill_is_left_alone(tmp_path: Path) -> None:
    """A drill removes files first, so it must refuse the directory of `holdfast up` or a home directory."""
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "mine").touch()
    done = CliRunner().invoke(main, ["drill", "--data-dir", str(tmp_path)])

    assert (done.exit_code, done.stdout) == (2, "")
    assert re.fullmatch(r"holdfast: .+ is not empty and holds no earlier drill: .+\n", done.stderr)
    assert [path.name for path in tmp_path.rglob("*")] == ["objects", "mine"]


@pytest.mark.parametrize(
    ("names", "count", "one"),
    [
        ("all", len(ALL), "clock.skew"),
        ("none", 0, None),
        ("redis", 6, "redis.away"),
        ("web.kill", 1, "web.kill"),
        ("target", 7, "target.refusing"),
        ("poison, web.kill ,web", 6, "web.freeze"),
        ("none,redis.full", 1, "redis.full"),
    ],
)
def test_faults_are_chosen_by_name_or_part(names: str, count: int, one: str | None) -> None:
    chosen = choose(names)

    assert len(chosen) == len(set(chosen)) == count
    assert one is None or one in chosen
    assert set(chosen) <= set(ALL)


@pytest.mark.parametrize(
    ("names", "wrong"), [("redis,nonsense", "nonsense"), ("web.killed", "web.killed"), ("", ""), ("web,", "")]
)
def test_an_unknown_fault_is_an_error_that_names_the_known_ones(names: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"'{wrong}' is no fault; there are: all, none, ") as error:
        choose(names)

    assert all(f", {name}" in str(error.value) for name in ALL)


def test_the_command_reports_an_unknown_fault_in_one_line() -> None:
    done = CliRunner().invoke(main, ["drill", "--faults", "nonsense"])

    *_, last = done.stderr.splitlines()
    assert (done.exit_code, done.stdout) == (2, "")
    assert last.startswith("Error: Invalid value for --faults: 'nonsense' is no fault; there are: all, none,")


def test_the_same_seed_gives_the_same_faults_in_the_same_order() -> None:
    names = choose("postgres")

    def first_turns(seed: int) -> list[tuple[int, float, str]]:
        return list(islice(turns(DrillPlan(60, 10, seed, names), "postgres", names), 3 * len(names)))

    assert first_turns(1) == first_turns(1)
    assert first_turns(1) != first_turns(2)
    for turn in range(3):
        assert sorted(fault for number, _, fault in first_turns(1) if number == turn) == sorted(names)
    assert all(0 < pause < 60 for _, pause, _ in first_turns(1))
