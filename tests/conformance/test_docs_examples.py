"""The programs of docs/examples, with their packages as npm would install them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.servers import Redis, running_fleet, token
from tests.support.snippets import ROOT

HERE = Path(__file__).parent


def run_example(
    redis: Redis, folder: Path, name: str, *arguments: str, says: str = "", **settings: str
) -> str:
    """What it prints, with a gateway and workers, and nothing else. ``says``: what it is told."""
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    (folder / name).write_text((ROOT / "docs" / "examples" / name).read_text("utf-8"), "utf-8")
    with running_fleet(redis, RUNCAST_PREFIX=folder.name) as fleet:
        base = fleet.gateway()
        fleet.worker("agents_sdk.demo:worker")
        fleet.worker()
        env = {**os.environ, "BASE": base, "TOKEN": token(), **settings}
        done = subprocess.run(
            ["node", str(folder / name), *arguments],
            env=env, input=says, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.mark.timeout(150)
def test_ag_ui(redis_server: Redis, tmp_path: Path) -> None:
    lines = run_example(redis_server, tmp_path, "ag-ui.mjs", "1 2 3 4 5 6").splitlines()
    assert any(line.startswith("I read 6 numbers.") for line in lines)
    assert any(line.startswith("(") for line in lines)
    assert any(line.endswith("}") for line in lines)


@pytest.mark.timeout(150)
def test_ag_ui_asks(redis_server: Redis, tmp_path: Path) -> None:
    shown = run_example(
        redis_server, tmp_path, "ag-ui.mjs", "go", says="7\nseven\n", AGENT="asks two"
    )
    assert shown.splitlines()[-1].endswith('["7", "seven"]')


@pytest.mark.timeout(150)
def test_ai_sdk(redis_server: Redis, tmp_path: Path) -> None:
    shown = run_example(redis_server, tmp_path, "ai-sdk.mjs")
    page = (ROOT / "docs" / "how-to" / "use-ai-sdk.md").read_text("utf-8")
    assert f"node ai-sdk.mjs\n{shown}```" in page
