"""The ports of the tests' own servers: nobody is taken for somebody else."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ports
from tests.support.redis_server import Server, standalone

ROOT = Path(__file__).parents[2]

PICK = """
import sys
from tests.support import ports
ports.PORTS = range(int(sys.argv[1]), int(sys.argv[1]) + 40)
print(*(ports.free_port() for _ in range(12)), flush=True)
sys.stdin.read()
"""


def test_two_processes_never_have_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one process twice: a cluster had two nodes that were one."""
    first = ports.free_port()
    monkeypatch.setattr(ports, "PORTS", range(first, first + 40))
    command = [sys.executable, "-c", PICK, str(first)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        theirs = {int(port) for port in other.stdout.readline().split()}
        ours = {ports.free_port() for _ in range(12)}
        other.communicate("")
    assert (len(theirs), len(ours), theirs & ours) == (12, 12, set())


def test_a_server_whose_port_is_taken_is_not_mistaken_for_the_one_that_has_it(
    tmp_path: Path,
) -> None:
    with standalone() as other:
        with pytest.raises(RuntimeError, match="Address already in use"):
            Server(tmp_path, port=other.port).start()
        assert other.answers()
