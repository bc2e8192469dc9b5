"""The load balancer of compose/haproxy before gateways that it finds by name, as in a fleet."""

import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.support.name_server import NameServer, name_server
from tests.support.ports import free_port
from tests.support.servers import Process, spawn, wait_until

HAPROXY: Final = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
CONFIG: Final = Path(__file__).parents[2] / "compose" / "haproxy" / "haproxy.cfg"
NAME: Final = "gateway"
"""By which compose/ knows the gateways."""


@dataclass
class Balancer:
    """``names`` tells it who is there; its gateways all listen on ``gateway_port``, each at an
    address of its own."""

    names: NameServer
    gateway_port: int = field(default_factory=free_port)
    public: int = field(default_factory=free_port)
    inside: int = field(default_factory=free_port)
    figures: int = field(default_factory=free_port)
    process: Process = field(init=False)

    @property
    def base(self) -> str:
        """Where clients come."""
        return f"http://127.0.0.1:{self.public}"

    @property
    def env(self) -> dict[str, str]:
        return {
            "LB_PUBLIC": f"127.0.0.1:{self.public}",
            "LB_INSIDE": f"127.0.0.1:{self.inside}",
            "LB_FIGURES": f"127.0.0.1:{self.figures}",
            "LB_GATEWAYS": f"{NAME}:{self.gateway_port}",
            "LB_NAMESERVER": self.names.place,
        }

    def start(self, folder: Path) -> None:
        assert HAPROXY is not None
        command = [HAPROXY, "-W", "-db", "-f", str(CONFIG)]
        self.process = spawn(command, folder / "haproxy.log", self.env)
        wait_until(
            lambda: self.process.runs() and self._serves(),
            what="the load balancer serves",
        )

    def up(self) -> int:
        """How many gateways get new connections, as it tells Prometheus."""
        place = f"http://127.0.0.1:{self.figures}/metrics?scope=server&no-maint"
        with urllib.request.urlopen(place, timeout=30) as response:
            families = text_string_to_metric_families(response.read().decode())
        return sum(
            sample.value == 1 and sample.labels["state"] == "UP"
            for family in families
            for sample in family.samples
            if sample.name == "haproxy_server_status"
        )

    def workers(self) -> list[int]:
        """The processes that serve: one more after a reload, until its connections have ended."""
        return [each.pid for each in psutil.Process(self.process.popen.pid).children()]

    def _serves(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.figures), timeout=10) as asking:
                asking.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
                return asking.recv(64).startswith(b"HTTP/1.")
        except OSError:
            return False


@contextmanager
def balancer() -> Iterator[Balancer]:
    """One that knows of no gateway yet."""
    with tempfile.TemporaryDirectory(prefix="runcast-test-") as folder, name_server(NAME) as names:
        running = Balancer(names)
        running.start(Path(folder))
        try:
            yield running
        finally:
            running.process.end()
