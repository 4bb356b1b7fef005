"""The structure: names that arq would ignore, files that platforms read, lock files."""

import inspect
import re
import tomllib

import pytest
from arq.worker import Worker

from service.config.settings import Settings
from service.worker.settings import worker_settings
from tests.conftest import ROOT
from tests.support.schedule import APART, TOGETHER

LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-bench.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def distributions(requirements: list[str]) -> set[str]:
    """Return the names of the distributions, normalized as in PEP 503."""
    return {
        re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]).lower()
        for requirement in requirements
    }


def locked(name: str) -> set[str]:
    lines = (ROOT / name).read_text().splitlines()
    return distributions([line for line in lines if re.match(r"[A-Za-z0-9]", line)])


async def test_arq_knows_every_name_of_the_worker_settings(settings: Settings) -> None:
    """arq ignores unknown names silently."""
    names = {name for name in vars(worker_settings(settings)) if not name.startswith("__")}

    assert {"functions", "ctx", "redis_pool", "redis_settings", "max_jobs", "health_check_key"} <= names
    assert names <= set(inspect.signature(Worker).parameters)


def test_the_procfile_starts_what_it_says() -> None:
    assert (ROOT / "Procfile").read_text().splitlines() == [
        "release: python -m service release",
        "web: python -m service web",
        "worker: python -m service worker",
    ]


def test_make_test_is_what_ci_runs_and_lint_is_part_of_it() -> None:
    makefile = (ROOT / "Makefile").read_text()

    def recipe(target: str) -> str:
        return makefile.partition(f"\n{target}:")[2].partition("\n\n")[0]

    listed = re.search(r"^LINT := (.+)$", makefile, flags=re.MULTILINE)
    assert listed
    commands = " ".join(map(recipe, listed[1].split()))
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^test: checked\b", makefile, flags=re.MULTILINE)
    assert "$(LINT)" in recipe("checked")
    assert "$(LINT)" in recipe("lint")
    for tool in ("ruff format --check", "ruff check", "mypy", "lint-imports"):
        assert f"$(BIN)/{tool}" in commands


def test_modules_that_the_distribution_of_tests_names_exist() -> None:
    assert [name for name in {*APART, *TOGETHER} if not (ROOT / name).is_file()] == []


def test_the_locks_hold_every_dependency() -> None:
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    runtime = distributions(project["dependencies"])
    extras = {name: distributions(needs) for name, needs in project["optional-dependencies"].items()}
    deployed = locked("requirements.txt")

    assert runtime | extras["mongodb"] | extras["sentry"] <= deployed, "Heroku installs no extras"
    assert not deployed & (extras["local"] | extras["otel"]), "Heroku needs no servers of its own"
    assert deployed.union(*extras.values(), distributions(groups["dev"])) <= locked("requirements-dev.txt")
    assert distributions(groups["bench"]) <= locked("requirements-bench.txt")


def test_the_benchmarks_change_no_version() -> None:
    def pins(name: str) -> set[tuple[str, str]]:
        return set(re.findall(r"^([\w.-]+)(?:\[.*])?==(\S+)", (ROOT / name).read_text(), re.MULTILINE))

    tested, measured = pins("requirements-dev.txt"), pins("requirements-bench.txt")

    assert {pin for pin in measured if pin[0] in dict(tested)} <= tested


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_versions_and_hashes_and_the_address_of_no_host(name: str) -> None:
    text = (ROOT / name).read_text()
    pinned = re.findall(r"^[A-Za-z0-9].*$", text, flags=re.MULTILINE)

    assert "://" not in text
    assert not re.search(r"^-", text, flags=re.MULTILINE), "an option such as --index-url"
    assert all(re.match(r"[A-Za-z0-9._\[\],-]+==[^ ]+( ;.*)? \\$", line) for line in pinned), pinned
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)


def test_no_statement_takes_more_rows_than_its_limit() -> None:
    """Postgres may run a subquery once for each row that it is joined with; a WITH that locks rows runs once, and so does an array."""
    repeatable = re.compile(r"(?<!ARRAY\()(?:FROM|USING|JOIN|\bIN) \((?=\s*SELECT)((?:[^()]|\([^()]*\))*)\)")
    many = re.compile(r"LIMIT (?!1\b)\S+ FOR (?:NO KEY )?UPDATE")
    statements = {path: path.read_text() for path in (ROOT / "service").rglob("*.py")}

    found = [
        f"{path.relative_to(ROOT)}: {subquery[1].strip()}"
        for path, source in statements.items()
        for subquery in repeatable.finditer(source)
        if many.search(subquery[1])
    ]

    assert found == []
