"""A server of the tests in a container, for ``REDIS=container`` (CONTRIBUTING.md, Tests).

It is in the machine's own network, as the nodes of a Cluster tell each other their addresses, and
sees the folder for temporary files under the same path, so that a server is given the same words in
a container as without one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from docker.errors import APIError, NotFound
from testcontainers.core.container import DockerContainer

IMAGE: Final = os.environ.get("REDIS_IMAGE", "redis:7.2.11-bookworm")
SERVER: Final = "redis-server"
LOOK_SECONDS: Final = 0.02


class Container:
    """As much of :class:`subprocess.Popen` as the tests use, of the program in a container."""

    def __init__(self, command: list[str], log: Path) -> None:
        """Run ``command`` in ``IMAGE``, as this user; what it prints is in ``log`` at its end."""
        self.args, self._log = command, log
        self.returncode: int | None = None
        everything = tempfile.gettempdir()
        container = DockerContainer(IMAGE)
        container.with_kwargs(
            entrypoint=command[:1],
            network_mode="host",
            user=f"{os.getuid()}:{os.getgid()}",
            working_dir=str(log.parent),
        )
        container.with_volume_mapping(everything, everything, "rw")
        self._container = container.with_command(command[1:]).start()
        self._wrapped = container.get_wrapped_container()
        self._wrapped.reload()
        self.id = str(self._wrapped.id)
        """As the engine has it."""
        self.pid = int(self._wrapped.attrs["State"]["Pid"])
        """As this machine counts; 0 when it has ended."""

    def poll(self) -> int | None:
        """The exit status, once there is one; the container is removed then."""
        if self.returncode is None:
            self._wrapped.reload()
            state = self._wrapped.attrs["State"]
            if state["Status"] in ("exited", "dead"):
                self._log.write_bytes(self._wrapped.logs())
                self.returncode = self._status(int(state["ExitCode"]))
                with suppress(NotFound):
                    self._container.stop()
        return self.returncode

    @staticmethod
    def _status(code: int) -> int:
        """As Popen says it: the negative number of the signal that ended it."""
        return 128 - code if code > 128 else code

    def wait(self, timeout: float | None = None) -> int:
        """:class:`subprocess.TimeoutExpired` when it runs on."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(LOOK_SECONDS)
        return status

    def send_signal(self, number: int) -> None:
        """Nothing when it has ended."""
        if self.poll() is None:
            with suppress(APIError):
                self._wrapped.kill(signal.Signals(number).name)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
