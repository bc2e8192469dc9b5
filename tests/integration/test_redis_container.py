"""The tests' own servers of Redis in Docker: what all other tests rely on when they run so."""

import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from tests.support.servers import IN_CONTAINERS, running_redis

if TYPE_CHECKING:
    from tests.support.redis_container import Container

pytestmark = [
    pytest.mark.skipif(not IN_CONTAINERS, reason="it is of make containers (REDIS=container)"),
    pytest.mark.timeout(300),
]


def test_a_server_runs_in_a_container_and_leaves_nothing_behind() -> None:
    with running_redis() as redis:
        first = cast("Container", redis.running.popen)
        mine, its = (Path(f"/proc/{pid}/ns/mnt").readlink() for pid in ("self", first.pid))
        assert its != mine, "it sees another file system"
        assert redis.running.end(signal.SIGKILL) == -signal.SIGKILL
        redis.start()
        second = cast("Container", redis.running.popen)
        assert second.id != first.id
        assert second.poll() is None
    listed = ["docker", "ps", "--all", "--quiet", "--no-trunc"]
    left = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
    assert not {first.id, second.id}.intersection(left)
