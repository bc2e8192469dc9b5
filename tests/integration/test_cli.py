"""The command line, as it is typed: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import jwt
import psutil
import pytest
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from gateway.cli import COMMAND_GROUPS, program
from tests.support.ports import free_port
from tests.support.servers import SECRET, Fleet, Redis, running_fleet, spawn, wait_until

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[2]
COMMANDS = (
    "demo", "gateway", "worker", "redis", "token", "chat", "tail", "publish", "check", "bench",
)  # fmt: skip


def runcast(*arguments: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNCAST_")}
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**clean, "COLUMNS": "200", **settings},
        timeout=100,
        check=False,
    )


class System:
    """A gateway and a worker with the demo's agent, and the settings that reach them."""

    def __init__(self, fleet: Fleet) -> None:
        address = fleet.gateway()
        worker = fleet.worker("agents_sdk.demo:worker")
        wait_until(lambda: "serves analyst" in worker.printed(), what="the worker serves")
        self.settings = {
            "RUNCAST_URL": f"{address.replace('http', 'ws')}/ws",
            "RUNCAST_JWT_SECRET": SECRET,
            "RUNCAST_REDIS_URL": fleet.redis.url,
        }

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return runcast(*arguments, stdin=stdin, **self.settings)

    def events(self, *arguments: str, stdin: str = "") -> list[dict[str, object]]:
        done = self.run(*arguments, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def system(redis_server: Redis) -> Iterator[System]:
    with running_fleet(redis_server, RUNCAST_PREFIX="cli") as fleet:
        yield System(fleet)


FIVE = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]


class TestChat:
    def test_shows_the_run_and_succeeds(self, system: System) -> None:
        done = system.run("chat", "--user", "alice", "1 2 3")
        assert done.returncode == 0, done.stderr
        places = [done.stdout.index(name) for name in FIVE]
        assert places == sorted(places)
        assert "mean 2" in done.stdout

    @pytest.mark.parametrize(
        "mode",
        [
            ("--mode", "factory"),
            ("--mode", "factory", "--level", "strict"),
            ("--mode", "isolated"),
            ("--mode", "legacy"),
        ],
        ids=" ".join,
    )
    def test_in_every_mode_one_event_per_line(self, system: System, mode: tuple[str, ...]) -> None:
        events = system.events("chat", "--user", "alice", *mode, "1 2 3")
        assert next(event["type"] for event in events if event["type"] in FIVE) == FIVE[0]
        assert events[-1]["type"] == FIVE[-1]
        assert len({event["run_id"] for event in events}) == 1

    def test_reads_the_message_from_standard_input(self, system: System) -> None:
        events = system.events("chat", "--user", "alice", "-", stdin="4 5 6")
        assert events[0]["payload"]["content"] == "4 5 6"  # type: ignore[index]

    def test_takes_a_token(self, system: System) -> None:
        token = system.run("token", "--user", "bob").stdout.strip()
        events = system.events("chat", "--token", token, "1 2 3")
        assert {event.get("user_id", "bob") for event in events} == {"bob"}

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--user", "alice", "--agent", "nobody"), "unknown_agent"),
            (("--user", "alice", "--mode", "bogus"), "factory, isolated, legacy, main"),
            (("--token", "a.b.c"), "a --token that it accepts"),
            ((), "--user alice"),
            (("--user", "alice", "--url", "ws://127.0.0.1:1/ws"), "Start a gateway there"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
    )
    def test_a_failure_says_why_on_standard_error(
        self, system: System, arguments: tuple[str, ...], says: str
    ) -> None:
        done = system.run("chat", *arguments, "hello")
        assert (done.returncode, done.stdout) == (1, "")
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_chat_without_any_worker_says_to_start_one(redis_server: Redis) -> None:
    """It said that none is known, and not what to do."""
    with running_fleet(redis_server, RUNCAST_PREFIX="alone") as fleet:
        url = f"{fleet.gateway().replace('http', 'ws')}/ws"
        done = runcast("chat", "--user", "a", "hi", RUNCAST_URL=url, RUNCAST_JWT_SECRET=SECRET)
        assert done.returncode == 1
        assert "start one that uses this Redis" in done.stderr


def test_tail_follows_from_a_cursor_until_it_is_interrupted(system: System) -> None:
    events = system.events("chat", "--user", "carol", "1 2 3")
    logged = [event["id"] for event in events if "id" in event]
    command = [sys.executable, "-m", "gateway", "tail", "--user", "carol", "--json"]
    with subprocess.Popen(
        [*command, "--after", str(logged[0])],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **system.settings},
    ) as tail:
        assert tail.stdout is not None
        had = [json.loads(tail.stdout.readline())["id"] for _ in logged[1:]]
        assert had == logged[1:]
        tail.send_signal(signal.SIGINT)
        assert tail.wait(30) == 0


class TestToken:
    def test_makes_none_that_gateways_refuse(self) -> None:
        """Defect: tokens for longer than a gateway accepts them were made, and refused with 401."""
        done = runcast("token", "--user", "alice", "--ttl-seconds", "2592001",
                       RUNCAST_JWT_SECRET=SECRET)  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        assert "RUNCAST_JWT_MAX_AGE_SECONDS" in done.stderr

    def test_prints_a_token_and_nothing_else(self) -> None:
        arguments = ("--user", "ops", "--tenant", "t", "--operator", "--ttl-seconds", "60")
        done = runcast("token", *arguments, RUNCAST_JWT_SECRET=SECRET)
        claims = jwt.decode(done.stdout.strip(), SECRET, algorithms=["HS256"])
        assert (claims["sub"], claims["tenant"], claims["role"]) == ("ops", "t", "operator")
        assert claims["exp"] - claims["iat"] == 60

    def test_without_a_secret_says_what_to_do(self) -> None:
        done = runcast("token", "--user", "alice")
        assert done.returncode == 1
        assert "RUNCAST_JWT_SECRET" in done.stderr


class TestCheck:
    def test_a_working_configuration(self, system: System) -> None:
        done = system.run("check", "--json")
        told = json.loads(done.stdout)
        assert (done.returncode, told["ok"]) == (0, True)
        names = {check["name"] for check in told["checks"]}
        assert names == {"settings", "fast path", "token keys", "redis"}
        assert system.run("check").returncode == 0

    def test_a_redis_that_is_not_there(self) -> None:
        url = f"redis://127.0.0.1:{free_port()}"
        done = runcast("check", RUNCAST_REDIS_URL=url, RUNCAST_JWT_SECRET=SECRET)
        assert done.returncode == 1
        assert "Check RUNCAST_REDIS_URL" in done.stdout

    def test_a_sweeper_that_cannot_log_in_is_told_by_its_own_setting(self, system: System) -> None:
        """It was told as of ``redis``, to check ``RUNCAST_REDIS_URL``, which was right."""
        wrong = system.settings["RUNCAST_REDIS_URL"].replace("//", "//nobody:wrong@")
        done = runcast("check", "--json", **system.settings, RUNCAST_SWEEPER_REDIS_URL=wrong)
        failed = [each for each in json.loads(done.stdout)["checks"] if not each["ok"]]
        assert [each["name"] for each in failed] == ["redis sweeper"]
        assert "Check RUNCAST_SWEEPER_REDIS_URL" in failed[0]["detail"]

    def test_no_key(self) -> None:
        done = runcast("check", "--json")
        checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert done.returncode == 1
        assert "RUNCAST_JWT_PUBLIC_KEY_FILE" in checks["token keys"]["detail"]
        assert checks["redis"]["detail"].startswith("embedded: ")

    def test_an_unknown_setting(self) -> None:
        done = runcast("check", RUNCAST_REDIS_URI="redis://x")
        assert done.returncode == 1
        assert "RUNCAST_REDIS_URL" in done.stderr


class TestGateway:
    def test_several_processes_share_a_port_and_drain(self, redis_server: Redis) -> None:
        with running_fleet(redis_server, RUNCAST_PREFIX="many", RUNCAST_DRAIN_SECONDS="1") as fleet:
            arguments = ("gateway", "--port", "0", "--processes", "2")
            process = fleet.runcast(*arguments, name="gateways")
            wait_until(lambda: "with 2 processes" in process.printed(), what="they serve")
            assert process.end(signal.SIGTERM) == 0
            assert "Traceback" not in process.printed()

    def test_who_is_told_that_it_serves_can_stop_it(self, redis_server: Redis) -> None:
        """A signal that came right behind the line, and not a moment later, killed the process."""
        at_once = (
            "import os, signal\n"
            "from broker.config import load_settings\n"
            "from gateway import serve\n"
            "serve.print = lambda *line, **_: os.kill(os.getpid(), signal.SIGTERM)\n"
            "serve.serve(load_settings(port=0), processes=1)\n"
        )
        with running_fleet(redis_server, RUNCAST_PREFIX="told") as fleet:
            process = spawn([sys.executable, "-c", at_once], fleet.folder / "told", fleet.env)
            fleet.processes.append(process)
            assert process.ended() == 0, process.printed()

    def test_it_may_open_as_many_files_as_the_hard_limit_says(
        self, redis_server: Redis, tmp_path: Path
    ) -> None:
        """However low the soft one is that it is started with: a connection is a file."""
        with running_fleet(redis_server, RUNCAST_PREFIX="files") as fleet:
            begun = ["bash", "-c", 'ulimit -Sn 300 && exec "$0" -m gateway gateway --port 0']
            process = spawn([*begun, sys.executable], tmp_path / "log", fleet.env)
            fleet.processes.append(process)
            wait_until(lambda: "Serving at" in process.printed(), what="it serves")
            soft, hard = psutil.Process(process.popen.pid).rlimit(psutil.RLIMIT_NOFILE)
            assert soft == hard != 300

    def test_a_taken_port_is_named(self, system: System) -> None:
        port = system.settings["RUNCAST_URL"].split(":")[2].split("/")[0]
        done = system.run("gateway", "--port", port)
        assert done.returncode == 1
        assert f"port {port}: Address already in use" in done.stderr

    def test_an_unknown_host_is_named_and_not_the_port(self) -> None:
        done = runcast("gateway", "--host", "nowhere.invalid", RUNCAST_JWT_SECRET=SECRET)
        assert done.returncode == 1
        assert "Choose an address of this machine: --host" in done.stderr

    def test_it_does_not_start_without_a_key(self) -> None:
        done = runcast("gateway")
        assert done.returncode == 1
        assert "no key to verify tokens with" in done.stderr

    def test_redis_down_at_start_is_a_clear_end(self) -> None:
        url = f"redis://127.0.0.1:{free_port()}"
        done = runcast("gateway", "--port", "0", RUNCAST_REDIS_URL=url, RUNCAST_JWT_SECRET=SECRET)
        assert done.returncode == 1
        assert "Redis is not available" in done.stderr
        assert "Traceback" not in done.stderr


def test_redis_prints_its_url_first_and_stops_on_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway", "redis", "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("unix://")
        assert json.loads(
            runcast("check", "--json", RUNCAST_REDIS_URL=url, RUNCAST_JWT_SECRET=SECRET).stdout
        )["ok"]
        process.terminate()
        assert process.wait(30) == 0
    assert not Path(url.removeprefix("unix://")).exists()


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_redis_refuses_a_port_that_there_is_not(port: str) -> None:
    """It began to start one and ended in a traceback."""
    done = runcast("redis", "--port", port)
    assert done.returncode == 2
    assert "--port" in done.stderr


class TestHelp:
    """In this process: starting one for each page would cost a second each."""

    def help(self, *arguments: str) -> str:
        shown = CliRunner().invoke(program(), [*arguments, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0
        return shown.stdout

    def test_names_every_command(self) -> None:
        for command in COMMANDS:
            assert f" {command} " in self.help()

    @pytest.mark.parametrize("command", COMMANDS)
    def test_of_every_command_shows_examples(self, command: str) -> None:
        assert f"runcast {command}" in self.help(command).partition("Examples:")[2]

    @pytest.mark.parametrize("command", COMMANDS)
    def test_nothing_of_an_options_help_is_taken_for_markup(self, command: str) -> None:
        """Defect: `[default: RUNCAST_URL]` and its like were written and not shown."""
        found = get_command(program()).commands[command].params  # type: ignore[attr-defined]  # a group
        for told in filter(None, (getattr(each, "help", None) for each in found)):
            assert Text.from_markup(told).plain == told

    def test_a_wrong_option_is_status_2(self) -> None:
        assert CliRunner().invoke(program(), ["chat", "--bogus"]).exit_code == 2


def test_a_checkout_and_an_installation_have_the_same_commands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["runcast.commands"] == COMMAND_GROUPS
    for place in COMMAND_GROUPS.values():
        module, _, name = place.partition(":")
        assert callable(getattr(import_module(module), name))
