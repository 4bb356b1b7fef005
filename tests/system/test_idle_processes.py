"""An idle process has loaded what it uses: every other package costs memory, and time at each start."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from service.config.settings import Settings
from service.local.servers import free_port
from tests.conftest import EMPTY, ROOT, environment
from tests.support.databases import sql
from tests.support.processes import wait_for

# Modules of other commands, of settings that are off, of libraries' options, and of the types of stored files.
UNUSED = {
    "alembic",
    "cryptography.hazmat.bindings._rust",
    "obstore",
    "opentelemetry",
    "puremagic",
    "pymongo",
    "rich.console",
    "sentry_sdk",
    "service.local",
}


@contextmanager
def idle(name: str, settings: Settings, output: Path, **more: str) -> Iterator[None]:
    """Run a process as the Procfile starts it; it writes the name of each module that it imports."""
    command = [sys.executable, "-X", "importtime", "-m", "service", name]
    directory = output.with_name("objects")
    variables = {
        **environment(settings),
        "STORAGE_URL": f"file://{directory}",
        "ZENDESK_WEBHOOK_SECRETS": "secret-of-the-test",
        **more,
    }
    with (
        output.open("wb") as stderr,
        subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=stderr
        ) as process,
    ):
        try:
            yield
        finally:
            process.kill()


def unused(output: Path) -> set[str]:
    """Return the unused modules that a process imported."""
    loaded = {line.rpartition("|")[2].strip() for line in output.read_text().splitlines()}
    assert "service.resources" in loaded
    return UNUSED & loaded


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # URLError is one; a busy process may answer later than in this time
        return False


def test_an_idle_web_process_has_loaded_no_package_that_it_does_not_use(
    common_settings: Settings, tmp_path: Path
) -> None:
    port, output = free_port(), tmp_path / "imports"
    with idle("web", common_settings, output, HOST="127.0.0.1", PORT=str(port)):
        wait_for(lambda: answers(port), seconds=90)

    assert unused(output) == set()


def test_an_idle_worker_has_loaded_no_package_that_it_does_not_use(
    common_settings: Settings, database_url: str, tmp_path: Path
) -> None:
    sql(database_url, EMPTY)
    output = tmp_path / "imports"
    with idle("worker", common_settings, output):
        wait_for(lambda: sql(database_url, "SELECT name FROM workers"), seconds=90)

    assert unused(output) == set()


def test_hidden_packages_are_found_again_after_the_imports() -> None:
    code = (
        "from service.cli.lean_imports import lean_imports\n"
        "with lean_imports():\n    import jwt, redis, structlog\n"
        "from cryptography.fernet import Fernet\n"
        "from rich.console import Console\n"
    )

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
