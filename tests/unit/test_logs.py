"""Logs go to standard error and hold nobody's secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from broker.logs import WITHHELD_KEYS, configure_logging


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    access = logging.getLogger("aiohttp.access")
    disabled = access.disabled
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    access.disabled = disabled


def test_json_lines_go_to_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    structlog.get_logger().info("run claimed", run_id="r1")
    logging.getLogger("other.library").warning("careful %s", "now")
    out, err = capsys.readouterr()
    assert out == ""
    ours, theirs = (json.loads(line) for line in err.splitlines())
    assert (ours["event"], ours["run_id"], ours["level"]) == ("run claimed", "r1", "info")
    assert (theirs["event"], theirs["level"]) == ("careful now", "warning")


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("console", "warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    err = capsys.readouterr().err
    assert "quiet" not in err
    assert "loud" in err


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("key", sorted(WITHHELD_KEYS))
def test_a_secret_field_is_withheld(
    key: str, log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("json" if log_format == "json" else "console")
    structlog.get_logger().warning("careless", **{key: "hunter2"})
    err = capsys.readouterr().err
    assert "hunter2" not in err
    assert key in err


@pytest.mark.parametrize("control", ["\x9b31m", "\x1b[2J", "\u202e", "\u2028", "\r"])
def test_a_strangers_header_does_not_move_an_operators_cursor(
    control: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``Host`` is logged when an origin is refused, and may have any character beyond ASCII."""
    configure_logging("console")
    structlog.get_logger().info("origin_refused", host=f"evil{control}żółć")
    logging.getLogger("other.library").warning("evil%s", control)
    err = capsys.readouterr().err
    assert control not in err
    assert repr(control)[1:-1] in err
    assert "żółć" in err


def test_access_logs_stay_off_because_they_hold_the_query_string() -> None:
    configure_logging()
    assert logging.getLogger("aiohttp.access").disabled


@pytest.mark.parametrize(
    ("headline", "error"),
    [
        ("Fatal error on SSL protocol", RuntimeError("the handler is closed")),
        ("Future exception was never retrieved", ssl.SSLError(1, "certificate required")),
    ],
)
def test_a_connection_that_broke_in_its_handshake_is_one_line_of_the_event_loop(
    headline: str, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop printed a traceback below the text that says what to do, once in some hundred."""
    printed = _reported(headline, error, capsys)
    assert (printed["event"], printed["level"]) == (f"{headline}: {error}", "warning")
    assert "exception" not in printed


def test_the_event_loop_tells_the_class_and_the_place_of_every_other_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = _reported("Task exception was never retrieved", KeyError("channel"), capsys)
    assert printed["level"] == "error"
    assert printed["event"] == "Task exception was never retrieved"
    assert printed["exception"].endswith("KeyError")
    assert "in _reported" in printed["exception"]


def _reported(
    headline: str, error: Exception, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    configure_logging("json")
    configure_logging("json")
    loop = asyncio.new_event_loop()
    try:
        raise error
    except Exception as raised:  # noqa: BLE001 - to give it a traceback
        loop.call_exception_handler({"message": headline, "exception": raised, "future": raised})
    finally:
        loop.close()
    written = capsys.readouterr().err
    line: dict[str, Any] = json.loads(written)
    if line["level"] == "error":
        assert "channel" not in written, "an error's text may be anybody's"
    return line
