"""The benchmarks run, detect missing or wrong files, and compare measurements of the same round."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import gate, results, stand_in
from benchmarks.checks import check_files
from benchmarks.testbed import MeasurementError
from benchmarks.webhooks import BODY_BYTES, write_webhooks
from tests.conftest import ROOT
from tests.support.examples import examples


@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
# The intake keeps all processors busy for as long as it is measured.
@pytest.mark.parametrize("part", ["work"] if examples(1) == 1 else ["work", "intake"])
async def test_a_part_runs_completely(part: str) -> None:
    """Without the packages of the group `bench`, it measures the other services."""
    benchmark = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", part, "--quick", "--rounds", "1"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await benchmark.communicate()

    assert benchmark.returncode == 0
    assert "| **Holdfast** |" in output.decode()


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_web_and_worker_need_no_more_processor_time_than_recorded() -> None:
    """If this fails, the message says what to do."""
    benchmark = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "gate"), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, output = await benchmark.communicate()

    assert (benchmark.returncode, output.decode()) == (0, "")


def test_a_ratio_passes_the_gate_up_to_the_room_for_noise() -> None:
    recorded = gate.read_recorded()

    assert set(recorded) == {"web", "worker"}
    for name, ratio in recorded.items():
        assert gate.is_within(name, ratio, ratio * 0.99 * gate.ROOM[name])
        assert not gate.is_within(name, ratio, ratio * 1.01 * gate.ROOM[name])


def test_a_ratio_compares_measurements_of_the_same_round() -> None:
    spread = results.ratio([10, 40, 90], [10, 20, 30])

    assert str(spread) == "2.00 (1.00..3.00)"


def test_an_aim_is_reached_by_the_median() -> None:
    spread = results.spread([1, 2, 30])

    assert results.at_least(2, "of it", spread).reached
    assert not results.below(2, "ms", spread).reached


def test_a_part_replaces_only_its_own_section(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    results.write(path, ["## One\n\nformer\n", "## Two\n\nkept\n"])
    results.write(path, ["## One\n\nnew\n"])
    text = path.read_text()

    assert "new" in text
    assert "former" not in text
    assert text.index("## One") < text.index("## Two")
    assert text.startswith("# Holdfast")


def test_webhooks_are_all_different_and_of_equal_size(tmp_path: Path) -> None:
    webhooks = write_webhooks(tmp_path / "webhooks", range(50), "http://127.0.0.1:9/file/{:04}/9".format)
    requests = webhooks.read(0, 50)

    assert {len(request.partition(b"\r\n\r\n")[2]) for request in requests} == {BODY_BYTES}
    assert len(set(requests)) == 50
    assert webhooks.read(49, 1) == requests[49:]


@pytest.mark.parametrize("harm", ["missing", "short", "long", "other", "twice"])
def test_a_file_that_differs_from_the_served_one_is_detected(tmp_path: Path, harm: str) -> None:
    def write(name: str, number: int) -> None:
        (tmp_path / name).write_bytes(b"".join(stand_in.content(number, 5000)))

    for number in range(3):
        write(f"{number}", number)
    check_files(tmp_path, "the contender", 3, 5000)
    last = tmp_path / "2"
    match harm:
        case "missing":
            last.unlink()
        case "short":
            last.write_bytes(last.read_bytes()[:-1])
        case "long":
            last.write_bytes(last.read_bytes() + b"x")
        case "other":
            last.write_bytes(last.read_bytes()[:-1] + b"x")
        case "twice":
            write("2", 1)

    with pytest.raises(MeasurementError):
        check_files(tmp_path, "the contender", 3, 5000)
