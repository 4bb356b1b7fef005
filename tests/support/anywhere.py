"""Commands on another machine: without DATABASE_URL, with a login in a config folder of their own."""

import asyncio
import os
from pathlib import Path

import structlog
from click.testing import CliRunner

from service.cli.backends import credentials
from service.cli.main import main
from service.config.settings import Settings
from tests.conftest import ROOT, environment
from tests.support import forked
from tests.support.forked import Done

WIDE = {"COLUMNS": "200"}


async def elsewhere(config: Path, *words: str, **changes: str) -> Done:
    """Run `holdfast` in this process, as on a machine that has only this config folder."""
    own = dict.fromkeys((name.upper() for name in Settings.model_fields), None)
    variables = {**own, **WIDE, "XDG_CONFIG_HOME": str(config), **changes}
    return await asyncio.to_thread(_run, words, variables)


async def command_elsewhere(settings: Settings, config: Path, *words: str) -> Done:
    """Do the same in a process of its own, which may write files."""
    own = {name.upper() for name in Settings.model_fields}
    known = {name: value for name, value in environment(settings).items() if name not in own}
    variables = {**known, **WIDE, "XDG_CONFIG_HOME": str(config)}
    return await asyncio.to_thread(forked.run, ["service", *words], variables, ROOT)


def _run(words: tuple[str, ...], variables: dict[str, str | None]) -> Done:
    log = structlog.get_config()
    try:
        done = CliRunner().invoke(main, words, env=variables, catch_exceptions=False)
    finally:
        structlog.configure(**log)
    return Done(words, done.exit_code, done.stdout, done.stderr)


async def keep_login(config: Path, url: str, token: str, ends_at: str = "2999-01-01T00:00:00+00:00") -> Path:
    """Save a login as the command does; return the path of its file."""
    return await asyncio.to_thread(_keep_login, config, url, token, ends_at)


def _keep_login(config: Path, url: str, token: str, ends_at: str) -> Path:
    before = os.environ.get("XDG_CONFIG_HOME")
    os.environ["XDG_CONFIG_HOME"] = str(config)
    try:
        credentials.save(credentials.Saved(url, token, ends_at))
        return credentials.path()
    finally:
        os.environ.pop("XDG_CONFIG_HOME")
        if before is not None:
            os.environ["XDG_CONFIG_HOME"] = before
