"""A log line that cannot be written ends nothing."""

import os
import sys

import pytest
import structlog

from service import logs


def test_who_reads_the_log_may_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    gone = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", gone)
    logs.configure("json", "INFO")

    structlog.get_logger().info("email_received", email=1)

    with pytest.raises(BrokenPipeError):
        gone.close()


def test_a_line_is_one_event_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "INFO")

    structlog.get_logger().info("email_received", name="a\nb\ud800")

    assert capsys.readouterr().out.count("\n") == 1
