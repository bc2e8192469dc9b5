"""The fleet of ``compose/docker-compose.yml``, in the Docker engine that answers.

Brought up and taken down by the operator's own two commands, with ports, networks, names and
secrets of its own. Where no registry is reached, ``tests/support/images.sh`` has loaded one image
that stands for those of others; Grafana is in no distribution and is left out then.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tests.support.ports import free_port
from tests.support.servers import OPERATOR_KEY, SECRET

ROOT: Final = Path(__file__).parents[2]
LOCAL: Final = "runcast-test/debian"
"""What images.sh loads."""

BUILD: Final = "runcast-test/build"
"""The same with a compiler, for the stage that builds."""

IMAGE: Final = "runcast-test/runcast"
"""What is built, beside the one of whoever runs the tests."""

WITHOUT_GRAFANA: Final = ("haproxy", "worker", "prometheus")
"""These, and what they depend on."""

COMMAND_SECONDS: Final = 600.0
"""What ends a hang; a first build takes minutes on a machine that others use."""

METRICS: Final = """
import sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:8080/metrics")
request.add_header("Authorization", "Bearer " + sys.argv[1])
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""


class Failed(AssertionError):
    """A command that did not do what it should; with what it printed."""


@dataclass
class DockerFleet:
    folder: Path
    project: str = field(default_factory=lambda: f"runcast-test-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        choice = random.SystemRandom()
        first = choice.randrange(128, 255)
        self.ports = {
            name: str(free_port())
            for name in ("PUBLIC_PORT", "INSIDE_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
        }
        self.secrets = self.folder / "secrets"
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.env = {
            **{name: value for name, value in os.environ.items() if not _of_ours(name)},
            **self.ports,
            "COMPOSE_PROJECT_NAME": self.project,
            "SECRETS": str(self.secrets),
            "EDGE_NET": f"10.{first}.{choice.randrange(256)}",
            "DATA_NET": f"10.{first - 1}.{choice.randrange(256)}",
            "OPEN_FILES": str(200_000 if hard == resource.RLIM_INFINITY else min(hard, 200_000)),
            "GATEWAY_IMAGE": IMAGE,
            "WORKER_IMAGE": IMAGE,
        }
        if self.local:
            images = ("BASE", "REDIS_IMAGE", "HAPROXY_IMAGE", "PROMETHEUS_IMAGE")
            self.env |= {**dict.fromkeys(images, LOCAL), "BUILD": BUILD}
            self.env["DOCKER_BUILDKIT"] = "0"  # the builder that takes images which are here only
            self.env["SERVICES"] = " ".join(WITHOUT_GRAFANA)
        if not _works("docker", "compose", "version"):
            self._plug_compose_in()
        keys = self.secrets / "keys"
        keys.mkdir(parents=True)
        (keys / "jwt_secret").write_text(SECRET)
        (keys / "operator_key").write_text(OPERATOR_KEY)

    def _plug_compose_in(self) -> None:
        """The docker-compose of this environment, as the plugin that users have."""
        program = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
        assert program is not None, "There is no Docker Compose: make compose installs it."
        plugins = self.folder / "docker" / "cli-plugins"
        plugins.mkdir(parents=True)
        (plugins / "docker-compose").symlink_to(program)
        self.env["DOCKER_CONFIG"] = str(plugins.parent)

    @cached_property
    def local(self) -> bool:
        """Whether the images are those of images.sh."""
        return _works("docker", "image", "inspect", LOCAL)

    @property
    def base(self) -> str:
        """Where clients come."""
        return f"http://127.0.0.1:{self.ports['PUBLIC_PORT']}"

    # --- commands

    def run(self, *command: str, **env: str) -> str:
        """What it prints on standard output; :raises Failed: it ended with another status."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise Failed(f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def docker(self, *arguments: str) -> str:
        return self.run("docker", *arguments)

    def compose(self, *arguments: str) -> str:
        return self.docker("compose", "--file", "compose/docker-compose.yml", *arguments)

    def up(self, arguments: str = "", **env: str) -> None:
        """``make up``; what it wrote, and the fleet's logs, when that fails.

        It is tried twice: on a machine that stands still a container may not be healthy in time.
        """
        try:
            try:
                self.run("make", "up", f"ARGS={arguments}", **env)
            except Failed:
                self.run("make", "up", f"ARGS={arguments}", **env)
        except Failed as failed:
            raise Failed(f"{failed}\n{self.compose('logs', '--tail', '15')}") from None

    def down(self) -> None:
        """``make down``, with its data.

        An engine sometimes keeps an endpoint of a container that it has removed, and with it the
        network (moby issues 17217 and 33156): such endpoints are taken away, and it is tried again.
        """
        failed = None
        try:
            self.run("make", "down", "ARGS=--volumes")
        except Failed as error:
            failed = error
        if self._disconnect_removed():
            self.run("make", "down", "ARGS=--volumes")
        elif failed is not None:
            raise failed

    def _disconnect_removed(self) -> list[str]:
        """Endpoints that were left in this project's networks by containers that are gone."""
        there = set(self.docker("ps", "--all", "--quiet", "--no-trunc").split())
        networks = self.docker("network", "ls", "--quiet", "--filter", self._mine).split()
        found = json.loads(self.docker("network", "inspect", *networks)) if networks else []
        left = [
            (network["Id"], endpoint["Name"])
            for network in found
            for container, endpoint in network["Containers"].items()
            if container not in there
        ]
        for network, name in left:
            self.docker("network", "disconnect", "--force", network, name)
        return [name for _, name in left]

    @property
    def _mine(self) -> str:
        """What the engine's lists are filtered by."""
        return f"label=com.docker.compose.project={self.project}"

    def left(self) -> list[str]:
        """Everything of this project that the engine knows."""
        return [
            line
            for kind in (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
            for line in self.docker(*kind, "--quiet", "--filter", self._mine).split()
        ]

    # --- containers

    def containers(self, service: str = "") -> dict[str, Any]:
        """Name → what ``docker inspect`` tells, of those that run."""
        wanted = ["--filter", self._mine]
        if service:
            wanted += ["--filter", f"label=com.docker.compose.service={service}"]
        ids = self.docker("ps", "--quiet", *wanted).split()
        found = json.loads(self.docker("inspect", *ids)) if ids else []
        return {each["Name"].removeprefix("/"): each for each in found}

    def settings(self, service: str) -> str:
        """The settings with secrets in them that a container of the service reads."""
        return self.docker(
            "exec", next(iter(self.containers(service))), "cat", f"/run/secrets/{service}.toml"
        )

    def connections(self, gateway: str) -> int:
        """How many sockets this gateway has."""
        key = (self.secrets / "keys" / "runcast_metrics_key").read_text()
        text = self.docker("exec", gateway, "python3", "-Ic", METRICS, key)
        lines = [line for line in text.splitlines() if line.startswith("runcast_connections{")]
        return int(sum(float(line.split()[-1]) for line in lines))

    @property
    def redis_url(self) -> str:
        """The master's, for the judge: as the user who may everything."""
        (redis,) = self.containers("redis").values()
        (network,) = redis["NetworkSettings"]["Networks"].values()
        password = (self.secrets / "keys" / "redis_admin").read_text()
        return f"redis://admin:{password}@{network['IPAddress']}:6379"


def _works(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _of_ours(name: str) -> bool:
    """What would change what is tested: settings of whoever runs it, and of the make around it."""
    return name.startswith(("RUNCAST_", "COMPOSE_")) or name in {"MAKEFLAGS", "MFLAGS", "ARGS"}
