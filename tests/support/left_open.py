"""Fail the test that leaves a connection to Postgres open.

Otherwise a collection of garbage finds the connection later, and fails the test that runs by then.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from asyncpg import Connection

_init = Connection.__init__
# All connections, and the test that opened each.
_opened: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def _open(connection: Any, *arguments: Any, **more: Any) -> None:
    _init(connection, *arguments, **more)
    _opened[connection] = os.environ.get("PYTEST_CURRENT_TEST", "no test")  # pytest sets it


Connection.__init__ = _open


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Look at the connections after the end of all fixtures."""
    yield
    left = [test for connection, test in _take_ended() if _end(connection)]
    assert not left, f"connections to Postgres are open, and their loop is closed; opened in {left}"


def _take_ended() -> list[tuple[Any, str]]:
    """Return the connections of closed loops, and forget them."""
    ended = [(connection, test) for connection, test in _opened.items() if connection._loop.is_closed()]
    for connection, _ in ended:
        del _opened[connection]
    return ended


def _end(connection: Any) -> bool:
    """Return whether a connection is open; if so, end it, so that no other test reports it."""
    if connection.is_closed():
        return False
    with suppress(RuntimeError):  # the loop is closed
        connection.terminate()
    return True
