"""``runcast chat`` with an agent that asks: in a terminal, with ``--answer``, with nobody there."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.journal import FOLDER
from tests.support.servers import SECRET, Fleet, Redis, running_fleet, wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def fleet(redis_server: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"RUNCAST_PREFIX": "answers", FOLDER: str(tmp_path_factory.mktemp("journal"))}
    with running_fleet(redis_server, **settings) as running:
        running.settings["RUNCAST_URL"] = f"{running.gateway().replace('http', 'ws')}/ws"
        running.worker()
        yield running


def command(*arguments: str) -> list[str]:
    asking = ("chat", "--user", "alice", "--agent", "asks two", *arguments, "ask")
    return [sys.executable, "-m", "gateway", *asking]


def environment(fleet: Fleet) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNCAST_")}
    return {**clean, **fleet.settings, "RUNCAST_JWT_SECRET": SECRET, "COLUMNS": "200"}


def chat(fleet: Fleet, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(fleet),
        cwd=Path(__file__).parents[2],
        timeout=100,
        check=False,
    )


def test_answers_of_the_command_line(fleet: Fleet) -> None:
    done = chat(fleet, "--json", "--answer", "7", "--answer", "seven")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["type"] for event in events if event["type"] in ("input_required", "user_input")]
    assert kinds == ["input_required", "user_input"] * 2
    # The first question's schema asks for a number, the second has none.
    assert json.loads(events[-1]["payload"]["response"]) == [7, "seven"]


def test_without_an_answer_it_says_so_and_the_run_waits_on(fleet: Fleet) -> None:
    done = chat(fleet, "--json", "--answer", "7")
    assert done.returncode == 1
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["type"] == "input_required"
    assert "the run asks 'And in words?' and waits until 20" in done.stderr
    assert "--answer TEXT" in done.stderr
    assert "Traceback" not in done.stderr


def test_in_a_terminal_it_asks(fleet: Fleet) -> None:
    ours, theirs = pty.openpty()
    shown = b""

    def has(pattern: bytes) -> bool:
        nonlocal shown
        if not re.search(pattern, shown):
            shown += os.read(ours, 4096)
        return re.search(pattern, shown) is not None

    process = subprocess.Popen(
        command(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(fleet),
        cwd=Path(__file__).parents[2],
    )
    try:
        wait_until(lambda: has(rb"Which number\?[^>]*> "), what="the first question")
        os.write(ours, b"8\ntoo early for the next\n")
        wait_until(lambda: has(rb"And in words\?[^>]*> "), what="the second question")
        os.write(ours, b"eight\n")
        wait_until(lambda: has(rb"succeeded"), what="the end")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)
    assert b'[8, "eight"]' in shown
    assert b"Fatal" not in shown
