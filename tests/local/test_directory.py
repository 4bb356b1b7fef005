"""The data directory of `holdfast up` is private, its parents stay as they are, and each problem is one line."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.config.reading import read_env_file
from service.errors import SettingsError
from service.local.directory import own_directory
from service.local.launch import ServerError
from service.local.servers import free_port, postgres
from tests.support import forked
from tests.support.processes import ROOT, linux

STRANGER = 12_345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def outside() -> Iterator[Path]:
    """Yield a directory that every user can read."""
    with tempfile.TemporaryDirectory(prefix="holdfast-test-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_the_directory_is_made_private_and_its_parents_with_default_modes(tmp_path: Path) -> None:
    before = mode(tmp_path)
    directory = own_directory(tmp_path / "a" / "b" / "data")

    assert directory == tmp_path / "a" / "b" / "data"
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/data")] == [0o755, 0o755, 0o700]
    assert mode(tmp_path) == before


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)

    own_directory(tmp_path / "data")

    assert mode(tmp_path / "data") == 0o755


def test_a_server_leaves_the_modes_of_parent_directories(tmp_path: Path) -> None:
    directory = own_directory(tmp_path / "a" / "data")
    before = {path: mode(path) for path in directory.parents}

    with postgres(directory / "postgres"):
        pass

    assert {path: mode(path) for path in directory.parents} == before


@pytest.mark.parametrize(
    ("which", "bits"), [("data", 0o777), ("data", 0o702), ("data", 0o1777), (".", 0o777), (".", 0o733)]
)
def test_a_directory_that_others_may_write_to_is_refused_with_advice(
    tmp_path: Path, which: str, bits: int
) -> None:
    parent = tmp_path / "parent"
    (parent / "data").mkdir(parents=True)
    (parent / which).chmod(bits)

    with pytest.raises(ServerError) as caught:
        own_directory(parent / "data")

    assert str(caught.value) == (
        f"other users may write to {parent / which}: run `chmod go-w {parent / which}`,"
        " or choose another --data-dir"
    )
    assert mode(parent / which) == bits


def test_a_parent_with_the_sticky_bit_is_accepted(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)

    assert own_directory(tmp_path / "data").is_dir()


@as_root
def test_a_directory_that_a_foreign_group_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    os.chown(tmp_path / "data", -1, STRANGER)
    (tmp_path / "data").chmod(0o770)

    with pytest.raises(ServerError, match="other users may write"):
        own_directory(tmp_path / "data")


@as_root
@pytest.mark.parametrize("which", ["data", "."])
def test_a_directory_of_another_user_is_refused(tmp_path: Path, which: str) -> None:
    parent = tmp_path / "parent"
    (parent / "data").mkdir(parents=True)
    os.chown(parent / which, STRANGER, -1)

    with pytest.raises(ServerError) as caught:
        own_directory(parent / "data")

    assert str(caught.value).startswith(f"{parent / which} belongs to user {STRANGER}, who could change")


def test_a_link_of_the_same_user_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "data")

    assert own_directory(tmp_path / "link") == tmp_path / "elsewhere" / "data"
    assert mode(tmp_path / "elsewhere" / "data") == 0o700


def test_a_link_to_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ServerError, match="elsewhere"):
        own_directory(tmp_path / "link" / "data")
    assert not (tmp_path / "elsewhere" / "data").exists()


@as_root
def test_a_link_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.chown(tmp_path / "link", STRANGER, -1, follow_symlinks=False)

    with pytest.raises(ServerError, match=f"link is a link that belongs to user {STRANGER}"):
        own_directory(tmp_path / "link" / "data")


def test_a_path_through_a_file_or_a_circular_link_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")

    for path in (tmp_path / "file" / "data", tmp_path / "circle" / "data"):
        with pytest.raises(ServerError, match="cannot use") as caught:
            own_directory(path)
        assert "\n" not in str(caught.value)


# ── users that Postgres refuses


def python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, with the names of `servers`."""
    begin = "import ctypes, os, sys\nfrom pathlib import Path\nfrom service.local.servers import *\n"
    command = [sys.executable, "-c", begin + script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


RUN = """
try:
    with postgres(Path(sys.argv[1])) as url:
        print("it runs")
except ServerError as exc:
    print(exc)
"""


@as_root
def test_a_user_without_a_name_learns_why_postgres_does_not_start(outside: Path) -> None:
    os.chown(outside, STRANGER, STRANGER)
    done = python(f"os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})" + RUN, outside)

    assert done.stdout == (
        f"user {STRANGER} has no name in /etc/passwd, and Postgres makes no database for such a user:"
        " add a line there, run this as another user, or set DATABASE_URL to a Postgres of your own\n"
    ), done.stderr


@as_root
@linux
def test_root_without_capabilities_leaves_the_directories_of_others_closed(outside: Path) -> None:
    """Postgres then runs as `nobody`, who needs access to all parent directories."""
    (outside / "closed" / "data").mkdir(parents=True)
    (outside / "closed").chmod(0o700)
    before = [mode(path) for path in (outside, outside / "closed")]
    drop = (
        "assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0"  # drops CAP_DAC_OVERRIDE from the bounding set
    )

    done = python(drop + RUN, outside / "closed" / "data")

    assert done.stdout.startswith(
        f"Postgres refuses to run as root, and nobody may not pass through {outside / 'closed'}: run this"
    ), done.stderr
    assert [mode(path) for path in (outside, outside / "closed")] == before


# ── broken files in the directory


def make_directory(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_circular_link(path: Path) -> None:
    path.symlink_to(path)


def writing(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


BROKEN = {
    "binary": (writing(b"\x7fELF\x00\x01\xff" * 100), "is not a file of settings"),
    "not UTF-8": (writing(b"A=\xff\xfe"), "is not text in UTF-8"),
    "endless": (writing(b"A=1\n" * 300_000), "is not a file of settings"),
    "no settings": (writing(b"# ours\nA=1\nthis is no setting\n"), "line 3 is not NAME=value"),
    "an open quotation mark": (writing(b"A=1\nB='x\n"), "line 2 is not NAME=value"),
    "a directory": (make_directory, "is not a file"),
    "a pipe": (make_pipe, "is not a file"),
    "a circle": (make_circular_link, "cannot be read (Too many levels of symbolic links)"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_file_of_settings_is_one_line(how: str, tmp_path: Path) -> None:
    make, problem = BROKEN[how]
    make(tmp_path / "env")

    with pytest.raises(SettingsError) as caught:
        read_env_file(tmp_path / "env")

    assert str(caught.value) == (
        f"{tmp_path / 'env'}: {problem}: correct it, or remove it; `holdfast up` makes a new one"
    )


def test_a_missing_file_of_settings_is_empty(tmp_path: Path) -> None:
    assert read_env_file(tmp_path / "env") == {}


def holdfast(directory: Path, *arguments: str) -> forked.Done:
    return forked.run(["service", *arguments], {"PATH": os.environ["PATH"], "TERM": "dumb"}, directory)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("env", writing(b"\xff\x00")),
        ("lock", make_directory),
        ("postgres", writing(b"")),
        ("logs", writing(b"")),
    ],
)
def test_up_reports_a_broken_data_directory_in_one_line(
    name: str, make: Callable[[Path], None], tmp_path: Path
) -> None:
    data = own_directory(tmp_path / ".holdfast")
    make(data / name)

    done = holdfast(tmp_path, "up", "--port", str(free_port()))

    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert str(data) in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["check"],
        ["emails", "list"],
        ["failures"],
        ["retries", "list"],
        ["quarantine", "list"],
        ["reconcile", "list"],
        ["alerts", "list"],
        ["activity"],
        ["tail"],
        ["send", "-"],
    ],
    ids=" ".join,
)
def test_each_command_reports_a_broken_file_of_settings_in_one_line(
    arguments: list[str], tmp_path: Path
) -> None:
    own_directory(tmp_path / ".holdfast")
    (tmp_path / ".holdfast" / "env").write_bytes(b"\xff\xfe junk")

    done = holdfast(tmp_path, *arguments)

    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.splitlines() == [
        ".holdfast/env: is not text in UTF-8: correct it, or remove it; `holdfast up` makes a new one"
    ]
