"""Peers that are installed on demand, beside the virtual environment's own: see NotInstalled."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.system.clients import Dialect, Opening, upgrade
from tests.benchmarks.system.native import CACHE
from tests.benchmarks.system.runs import packed
from tests.benchmarks.system.systems import PEERS, System
from tests.support.ports import free_port
from tests.support.servers import spawn, wait_until

INSTALL_SECONDS: Final = 300.0
SOCKETIO_PACKAGES: Final = ("socket.io@4", "@socket.io/redis-streams-adapter@0.3", "redis@5")
NATS_MODULE: Final = "github.com/nats-io/nats-server/v2@latest"


class NotInstalled(RuntimeError):
    """A peer cannot be had here; the text says why."""


class SocketIO(System):
    """Events come as the adapter's own emitters write them: entries of its one stream."""

    name = "Socket.IO, streams adapter"
    dialect = Dialect(ready='40{"sid"')

    def start(self) -> None:
        folder, port = CACHE / "socketio", free_port()
        if not (folder / "node_modules").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _install("npm", ["install", "--no-audit", "--no-fund", *SOCKETIO_PACKAGES], folder)
        node = shutil.which("node") or "node"
        command = ["env", "-C", folder, node, PEERS / "socketio.js", self.redis.url, port]
        self._spawn_with_port(command)

    def opening(self, user: str) -> Opening:
        asked = upgrade(f"/socket.io/?EIO=4&transport=websocket&user={user}")
        masked_40 = b"\x81\x82\0\0\0\x0040"  # Socket.IO's CONNECT; a mask of zeros changes nothing
        return Opening(asked.first, masked_40)

    def commands(self, users: Sequence[str], count: int, *, size: int) -> Iterator[bytes]:
        for room, event in self.events(users, count, size=size):
            told = {
                "opts": {"rooms": [room], "except": [], "flags": {}},
                "packet": {"type": 2, "data": ["event", json.loads(event)], "nsp": "/"},
            }
            fields = ("uid", "emitter", "nsp", "/", "type", "3", "data", json.dumps(told))
            yield packed("XADD", "socket.io", "MAXLEN", "~", "10000", "*", *fields)


class JetStream(System):
    """A stream in memory and an ordered push consumer per user. No Redis is in it."""

    name = "NATS JetStream"
    dialect = Dialect(ready="consumer_create_response", frames=False)
    replies = False

    def start(self) -> None:
        program, port = CACHE / "nats-server", free_port()
        if not program.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            _install("env", [f"GOBIN={CACHE}", "go", "install", NATS_MODULE], CACHE, needs="go")
        command = [program, "-js", "-a", "127.0.0.1", "-p", port, "-sd", self.folder / "nats"]
        log = self.folder / "nats.log"
        self.process = spawn([str(word) for word in command], log)
        wait_until(lambda: "Server is ready" in log.read_text(), what="nats-server is ready")
        self.port = self.feed_port = port
        stream = {"name": "BENCH", "subjects": ["to.*"], "storage": "memory", "max_msgs": 1_000_000}
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b'CONNECT {"verbose":false}\r\nSUB made 1\r\n'
                + _request("$JS.API.STREAM.CREATE.BENCH", "made", stream)
            )
            heard = b""
            while b"stream_create_response" not in heard:
                heard += connection.recv(65536)
        if b'"error"' in heard:
            raise RuntimeError(f"no stream: {heard!r}")

    def opening(self, user: str) -> Opening:
        consumer: dict[str, Any] = {
            "deliver_subject": f"deliver.{user}",
            "filter_subject": f"to.{user}",
            "deliver_policy": "new",
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "idle_heartbeat": 25_000_000_000,
            "flow_control": True,
        }
        asked = {"stream_name": "BENCH", "config": consumer}
        return Opening(
            f'CONNECT {{"verbose":false}}\r\nSUB deliver.{user} 1\r\nSUB made.{user} 2\r\n'.encode()
            + _request("$JS.API.CONSUMER.CREATE.BENCH", f"made.{user}", asked)
        )

    def commands(self, users: Sequence[str], count: int, *, size: int) -> Iterator[bytes]:
        for user, event in self.events(users, count, size=size):
            yield f"PUB to.{user} {len(event)}\r\n".encode() + event + b"\r\n"


def _request(subject: str, reply: str, asked: dict[str, Any]) -> bytes:
    text = json.dumps(asked).encode()
    return f"PUB {subject} {reply} {len(text)}\r\n".encode() + text + b"\r\n"


def _install(program: str, words: list[str], folder: Path, *, needs: str | None = None) -> None:
    found = shutil.which(program)
    if found is None or shutil.which(needs or program) is None:
        raise NotInstalled(f"there is no {needs or program} on PATH")
    try:
        subprocess.run(
            [found, *words], cwd=folder, check=True, capture_output=True, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{needs or program} took over {INSTALL_SECONDS:.0f} s") from None
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise NotInstalled(f"{needs or program} failed: {' '.join(last)}") from None
