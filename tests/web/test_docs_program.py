"""The program of "How to build a chat page", with the package as npm would install it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.servers import Redis, running_fleet, token
from tests.support.snippets import ROOT, snippet


@pytest.mark.timeout(40)
def test_the_program_of_the_documentation_works(redis_server: Redis, tmp_path: Path) -> None:
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "ws").symlink_to(Path(__file__).parent / "node_modules" / "ws")
    (modules / "runcast").symlink_to(ROOT / "gateway" / "web")
    program = tmp_path / "ask.mjs"
    program.write_text(snippet("docs/how-to/build-a-chat-page.md", "ask.mjs"), encoding="utf-8")
    with running_fleet(redis_server, RUNCAST_PREFIX="docs") as fleet:
        base = fleet.gateway()
        fleet.worker("agents_sdk.demo:worker")
        env = {**os.environ, "RUNCAST_URL": f"{base}/ws", "TOKEN": token("alice")}
        done = subprocess.run(
            ["node", str(program)], env=env, capture_output=True, text=True, timeout=20, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("I read 6 numbers.")
