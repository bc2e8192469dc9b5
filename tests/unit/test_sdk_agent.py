"""Declaring: what a worker, its agents and its command line refuse before anything starts."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agents_sdk import Agent, ConfigurationError, Run, Worker, cli
from broker.redis.records import AgentSpec


async def noop(run: Run) -> None:
    """Does nothing."""


def test_a_declaration_leaves_an_agent_that_is_still_the_function() -> None:
    worker = Worker()
    agent = worker.agent("a", retries=2, on_busy="reject", timeout_seconds=5)(noop)
    assert isinstance(agent, Agent)
    assert agent.spec == AgentSpec(name="a", retries=2, on_busy="reject", timeout_seconds=5)
    assert worker.agents == {"a": agent}
    assert (agent.__name__, agent.__doc__) == ("noop", "Does nothing.")
    assert repr(agent) == "<Agent 'a'>"


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("", {}, "1 to 256 bytes"),
        ("a\n", {}, "control characters"),
        ("a", {"retries": -1}, "retries"),
        ("a", {"on_busy": "panic"}, "'panic' is unknown"),
        ("a", {"timeout_seconds": 0}, "must be positive"),
        ("a", {"retries": 2.0}, "retries: must be int"),
        ("a", {"retries": True}, "retries: must be int"),
        ("a", {"timeout_seconds": float("nan")}, "must be positive"),
        ("a", {"require_all_events": "yes"}, "require_all_events: must be bool"),
        ("a", {"timeout_seconds": "5"}, "timeout_seconds: must be int or float or NoneType"),
    ],
)
def test_a_wrong_declaration_is_explained(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Worker().agent(name, **options)(noop)


def test_a_function_that_is_not_async_is_refused() -> None:
    def plain(run: Run) -> None: ...

    with pytest.raises(ConfigurationError, match="is not an `async def` function"):
        Worker().agent("a")(plain)  # type: ignore[arg-type]  # the mistake that is tested


def test_a_function_that_yields_is_told_how_to_stream() -> None:
    """Defect: it was said not to be `async def`, which it is."""

    async def streams(run: Run) -> AsyncIterator[str]:
        yield "a"

    with pytest.raises(ConfigurationError, match=r"it yields.* run.write"):
        Worker().agent("a")(streams)  # type: ignore[arg-type]  # the mistake that is tested


def test_a_declaration_without_a_name_is_refused() -> None:
    """Defect: `@worker.agent` alone declared nothing, and nobody said so."""
    with pytest.raises(ConfigurationError, match=r'@worker.agent\("name"\).* must be a string'):
        Worker().agent(noop)  # type: ignore[arg-type]  # the mistake that is tested


def test_a_name_is_declared_once() -> None:
    worker = Worker()
    worker.agent("a")(noop)
    with pytest.raises(ConfigurationError, match="has one of that name"):
        worker.agent("a")(noop)


def test_a_worker_runs_something() -> None:
    with pytest.raises(ConfigurationError, match="must be 1 or more"):
        Worker(concurrency=0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a module of agents, the current one."""
    (tmp_path / "sdk_cli_agents.py").write_text(
        "from agents_sdk import Worker\nworker = Worker()\nother = 1\n"
    )
    (tmp_path / "sdk_cli_broken.py").write_text("import no_such_module_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    return tmp_path


def test_a_worker_is_found_from_the_current_directory(here: Path) -> None:
    assert isinstance(cli.find_worker("sdk_cli_agents:worker"), Worker)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("nope:worker", "there is no module 'nope'"),
        ("sdk_cli_agents:nothing", "Did you mean sdk_cli_agents:worker?"),
        ("sdk_cli_agents:other", "is a int, not a Worker"),
        ("sdk_cli_agents", "does not have the form MODULE:WORKER"),
        (":worker", "does not have the form MODULE:WORKER"),
        ("json:nothing", "Make one there"),
    ],
)
def test_a_target_that_is_none_is_explained(here: Path, target: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        cli.find_worker(target)
    assert told in str(refused.value)


def test_a_module_that_cannot_be_imported_says_so_itself(here: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        cli.find_worker("sdk_cli_broken:worker")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--event", "agent_dreaming", "--payload", "{}"], "is not one of agent_started"),
        (["--event", "agent_thinking", "--payload", "{"], "not JSON"),
        (["--event", "agent_thinking", "--payload", "[]"], "must be a JSON object"),
        (["--event", "agent_thinking", "--event", "x", "--payload", "{}"], "give one for each"),
        (["--event", "agent_thinking", "--payload", "{}", "--scope", "all"], "is not user, thread"),
    ],
)
def test_wrong_events_by_hand_are_a_wrong_command_line(arguments: list[str], told: str) -> None:
    app = typer.Typer()
    cli.commands(app)
    result = CliRunner().invoke(app, ["publish", "--user", "alice", *arguments])
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", " ").split())
