"""The three users of ``compose/redis``: each can do its work, and nothing else.

A right that is missing is named by the server itself (``ACL LOG``), with the user who lacks it. To
add one is a line in ``compose/redis/rights.toml``, then ``python docs/generate.py``.
"""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from broker.redis import scripts
from compose.redis import rights
from tests.integration.test_topologies import System, user, works
from tests.support.clients import Client
from tests.support.ports import free_port
from tests.support.redis_cluster import cluster_redis
from tests.support.redis_server import Server, servers, standalone
from tests.support.servers import (
    OPERATOR_KEY,
    Fleet,
    Process,
    is_ready,
    spawn,
    token,
    wait_until,
)
from tests.support.topologies import Guarded, acl_redis, fleet_on
from tests.support.webhook_receiver import SECRET as WEBHOOK_SECRET
from tests.support.webhook_receiver import Receiver

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
PREFIX = "everywhere"
ROLES = tuple(rights.RIGHTS)
AT_SENTINELS = {"sentinel"}
"""Never sent to a data server."""


@contextmanager
def everyone(binary: Path | None = None) -> Iterator[Guarded]:
    """A server with the three users."""
    with acl_redis({role: rights.rules(role, PREFIX) for role in ROLES}, binary) as redis:
        yield redis


@contextmanager
def system_of(
    urls: dict[str, str], member: Server, back_end: Receiver
) -> Iterator[tuple[System, Process]]:
    """Two gateways and a worker, each as the user that it is; and the worker's process."""
    settings = {
        "RUNCAST_PREFIX": PREFIX,
        "RUNCAST_DRAIN_SECONDS": "0",
        "RUNCAST_LEASE_SECONDS": "2",
        "RUNCAST_WEBHOOK_URL": back_end.url,
        "RUNCAST_WEBHOOK_SECRETS": WEBHOOK_SECRET,
    }
    with fleet_on(urls["worker"], member, **settings) as fleet:
        worker = fleet.worker()
        as_gateway(fleet, urls)
        yield System(fleet, fleet.gateway(), fleet.gateway()), worker


def as_gateway(fleet: Fleet, urls: dict[str, str]) -> None:
    """What is started from now on is a gateway, or its check."""
    fleet.settings["RUNCAST_REDIS_URL"] = urls["gateway"]
    fleet.settings["RUNCAST_SWEEPER_REDIS_URL"] = urls["sweeper"]


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


# --- enough


async def golden_path(system: System, worker: Process, back_end: Receiver) -> None:
    """All modes, text, stop, resume, figures, check; then what takes rarer rights."""
    await works(system)
    await ends_are_posted_and_put_aside(system, back_end)
    await an_isolated_connection_is_taken_up(system)
    await a_question_is_answered(system)
    await operators_have_their_way(system)
    await a_lost_worker_and_a_stop_before_the_start_are_ended(system, worker)
    for process in system.fleet.processes:
        if process is not worker and "gateway" in process.log.name:
            assert process.end(signal.SIGTERM) == 0, process.printed()


def gone_at_first(_data: object, _nth: int) -> int:
    return 410


async def ends_are_posted_and_put_aside(system: System, back_end: Receiver) -> None:
    """What came so far was put aside; what comes now is taken."""
    await back_end.until(lambda: bool(back_end.posts), what="a post")
    back_end.replies = lambda _data, _nth: 204
    async with Client(system.first, user()) as client:
        run_id = await client.ask("hello", agent="five")
        await client.completed(run_id)
    await back_end.until_taken([run_id])


async def an_isolated_connection_is_taken_up(system: System) -> None:
    me = user()
    async with Client(system.first, me, mode="isolated") as former:
        hello = (await former.first("connection_established"))["payload"]
        known = {"connection": hello["connection_id"], "secret": hello["secret"]}
        async with Client(system.second, me, mode="isolated", **known) as later:
            await later.first("live")
            assert await former.closed() == 4409


async def a_question_is_answered(system: System) -> None:
    async with Client(system.first, user()) as client:
        run_id = await client.ask("ask", agent="asks two")
        for number, content in enumerate((7, "seven")):
            asked = await client.nth("input_required", number)
            answer = {"run_id": run_id, "request_id": asked["payload"]["request_id"]}
            await client.send("user_input", {**answer, "content": content}, ref=f"a{number}")
            assert (await client.reply(f"a{number}"))["type"] == "ok"
        await client.completed(run_id)


async def operators_have_their_way(system: System) -> None:
    """Figures, lists and the audit log; a ticket; and a revocation that closes what it opened."""
    me = user()
    async with (
        aiohttp.ClientSession(headers=bearer(token(me))) as http,
        http.post(f"{system.first}/ws/ticket") as response,
    ):
        ticket = (await response.json())["ticket"]
    async with (
        Client(system.second, me, headers={}, query={"ticket": ticket}) as client,
        aiohttp.ClientSession(headers=bearer(OPERATOR_KEY)) as http,
    ):
        await client.first("live")
        admin = f"{system.first}/api/v1/admin"
        async with http.post(f"{admin}/revocations", json={"user_id": me}) as response:
            assert response.status == 202, await response.text()
        assert await client.closed() == 4401
        for path in ("nodes", "agents", "audit"):
            async with http.get(f"{admin}/{path}") as response:
                assert response.status == 200, await response.text()


async def a_lost_worker_and_a_stop_before_the_start_are_ended(
    system: System, worker: Process
) -> None:
    """By the sweeper's user, on whichever gateway."""
    async with Client(system.first, user()) as client:
        lost = await client.ask("hello", agent="waits", ref="lost")
        await client.first("tool_executing")
        worker.end(signal.SIGKILL)
        queued = await client.ask("hello", agent="five", ref="queued", thread_id="another")
        await client.send("stop_agent", {"run_id": queued}, ref="stop")
        end = await client.completed(queued)
        assert end["payload"]["status"] == "cancelled", end
        end = await client.completed(lost)
        assert end["payload"]["status"] == "abandoned", end


@pytest.mark.parametrize("binary", servers())
async def test_three_users_with_the_least_rights_are_enough(binary: Path) -> None:
    async with Receiver(gone_at_first) as back_end:
        with everyone(binary) as redis:
            urls = {role: redis.url(role) for role in ROLES}
            try:
                with system_of(urls, redis.server, back_end) as (system, worker):
                    await golden_path(system, worker, back_end)
            finally:
                assert redis.refused() == [], "rights that are missing"


async def test_three_users_with_the_least_rights_are_enough_on_a_cluster() -> None:
    async with Receiver(gone_at_first) as back_end:
        with cluster_redis(tls=True) as redis:
            for node in redis.nodes:
                for role in ROLES:
                    rules = rights.rules(role, PREFIX, cluster=True)
                    node.command("ACL", "SETUSER", role, "on", f">{role}/1", *rules.split())
            urls = {role: redis.url_of(f"{role}:{role}%2F1@") for role in ROLES}
            try:
                with system_of(urls, redis.nodes[0], back_end) as (system, worker):
                    await golden_path(system, worker, back_end)
            finally:
                logs = [node.command("ACL", "LOG") for node in redis.nodes]
                assert logs == [[]] * len(redis.nodes), "rights that are missing"


def test_a_missing_right_of_the_sweeper_is_told_by_check_and_at_the_start() -> None:
    """Before a gateway serves, and not when the first worker is lost."""
    users = {role: rights.rules(role, PREFIX) for role in ROLES}
    users["sweeper"] = users["sweeper"].replace("+zrangebyscore", "")
    with acl_redis(users) as redis, fleet_on(redis.url("gateway"), redis.server) as fleet:
        fleet.settings["RUNCAST_PREFIX"] = PREFIX
        as_gateway(fleet, {role: redis.url(role) for role in ROLES})
        check, gateway = (
            fleet.runcast("check", name="check"),
            fleet.runcast("gateway", "--port", "0", name="gateway"),
        )
        assert check.ended() == 1, check.printed()
        assert re.search("redis sweeper.*zrangebyscore", check.printed()), check.printed()
        assert gateway.ended() == 1, gateway.printed()
        assert "zrangebyscore" in gateway.printed(), gateway.printed()


def test_a_right_that_workers_over_http_need_is_missed_by_check() -> None:
    """As of an installation whose users are older than its worker key."""
    users = {role: rights.rules(role, PREFIX) for role in ROLES}
    users["sweeper"] = users["sweeper"].replace("+strlen", "")
    with acl_redis(users) as redis, fleet_on(redis.url("gateway"), redis.server) as fleet:
        fleet.settings["RUNCAST_PREFIX"] = PREFIX
        as_gateway(fleet, {role: redis.url(role) for role in ROLES})
        check = fleet.runcast("check", name="check")
        assert check.ended() == 1, check.printed()
        assert re.search("redis sweeper.*strlen", check.printed()), check.printed()
        fleet.settings["RUNCAST_WORKER_KEY"] = ""
        without = fleet.runcast("check", name="check")
        assert without.ended() == 0, without.printed()


# --- and no more


KEY = "everywhere:{0}:"
NOT_FOR: dict[str, list[tuple[str, ...]]] = {
    "gateway": [
        ("XREADGROUP", "GROUP", "workers", "me", "STREAMS", "everywhere:{queue}:requests:a", ">"),
        ("XACK", "everywhere:{queue}:requests:a", "workers", "1-1"),
        ("XDEL", "everywhere:{queue}:requests:a", "1-1"),
        ("XDEL", f"{KEY}log:user:a", "1-1"),
        ("XTRIM", f"{KEY}log:user:a", "MAXLEN", "0"),
        ("HINCRBY", f"{KEY}run:r", "fence", "1"),
        ("SREM", f"{KEY}open:user:a", "r"),
        ("XRANGE", f"{KEY}webhooks:outbox", "-", "+"),
        ("XRANGE", f"{KEY}webhooks:aside", "-", "+"),
        ("SET", "everywhere:{nodes}:webhooks", "me"),
    ],
    "worker": [
        ("GET", f"{KEY}connection:a:c"),
        ("GET", f"{KEY}turns:a:c"),
        ("GET", f"{KEY}message:a:m"),
        ("GET", f"{KEY}ticket:d"),
        ("HGETALL", f"{KEY}revoked:user::a"),
        ("HSET", f"{KEY}revoked:user::a", "before", "1"),
        ("XADD", "everywhere:{nodes}:audit", "*", "e", "x"),
        ("PUBLISH", "everywhere:{nodes}:orders", "x"),
        ("HGETALL", "everywhere:{nodes}:reports"),
        ("GET", "everywhere:{nodes}:sweeper"),
        ("SET", "everywhere:{nodes}:sweeper", "me"),
        ("PUBLISH", "everywhere:{0}:probe:n", "x"),
        ("SUBSCRIBE", "everywhere:{0}:probe:n"),
        ("ZRANGEBYSCORE", f"{KEY}leases", "-inf", "+inf"),
        ("XRANGE", f"{KEY}webhooks:outbox", "-", "+"),
        ("XRANGE", f"{KEY}webhooks:aside", "-", "+"),
        ("SET", "everywhere:{nodes}:webhooks", "me"),
    ],
    "sweeper": [
        ("GET", f"{KEY}connection:a:c"),
        ("GET", f"{KEY}message:a:m"),
        ("GET", f"{KEY}ticket:d"),
        ("XADD", "everywhere:{nodes}:audit", "*", "e", "x"),
        ("HGETALL", "everywhere:{nodes}:reports"),
        ("HGETALL", "everywhere:{queue}:agents"),
        ("XREADGROUP", "GROUP", "workers", "me", "STREAMS", "everywhere:{queue}:requests:a", ">"),
        ("SUBSCRIBE", "everywhere:{0}:live:user:a"),
        ("PUBLISH", "everywhere:control:w", "stop"),
        ("DEL", f"{KEY}text:r"),
    ],
}
NOBODY = [
    ("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("SCAN", "0"), ("RANDOMKEY",), ("DBSIZE",),
    ("CONFIG", "GET", "*"), ("CONFIG", "SET", "save", ""), ("ACL", "LIST"), ("ACL", "WHOAMI"),
    ("ACL", "SETUSER", "me", "on"), ("SHUTDOWN", "NOSAVE"), ("SAVE",), ("BGREWRITEAOF",),
    ("MONITOR",), ("CLIENT", "LIST"), ("CLIENT", "KILL", "ID", "1"),
    ("REPLICAOF", "NO", "ONE"), ("MODULE", "LIST"), ("SWAPDB", "0", "1"), ("SCRIPT", "FLUSH"),
    ("SCRIPT", "KILL"), ("SLOWLOG", "GET"), ("PSUBSCRIBE", "*"), ("PUBSUB", "CHANNELS"),
    ("XGROUP", "DESTROY", "everywhere:{queue}:requests:a", "workers"),
    ("RENAME", f"{KEY}run:r", f"{KEY}run:s"), ("PERSIST", f"{KEY}run:r"),
    ("MIGRATE", "h", "1", f"{KEY}run:r", "0", "1"), ("DUMP", f"{KEY}run:r"),
    ("HGETALL", "other:{0}:run:r"), ("HGETALL", "everywhereelse:{0}:run:r"),
    ("HGETALL", "everywhere:run:r"), ("HMGET", "everywhere:{0}:secret:r", "a"), ("GET", "x"),
    ("PUBLISH", "other:{0}:live:user:a", "x"), ("SUBSCRIBE", "other:{0}:live:user:a"),
    ("PUBLISH", "everywhere:other", "x"),
    ("EVAL", "return redis.call('HGETALL', KEYS[1])", "1", "other:{0}:run:r"),
    ("EVAL", "return redis.call('HGETALL', 'other:{0}:run:r')", "0"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ("EVAL", "return redis.call('PUBLISH', 'other:{0}:live:user:a', 'x')", "0"),
]  # fmt: skip


@pytest.mark.parametrize("binary", servers())
def test_nobody_can_do_what_another_user_is_for(binary: Path) -> None:
    """Nor reach other prefixes, nor do what only an administrator may."""
    with everyone(binary) as redis:
        allowed = [
            (role, command)
            for role in ROLES
            for command in (*NOBODY, *NOT_FOR[role])
            if not refused(redis, role, command)
        ]
        assert allowed == []


def refused(redis: Guarded, role: str, command: tuple[str, ...]) -> bool:
    access = {"username": role, "password": redis.passwords[role]}
    try:
        replace(redis.server, access=access).raw(*command)
    except NoPermissionError:
        return True
    except ResponseError as error:  # within a script
        return bool(re.search(r"NOPERM|ACL failure|user executing the script", str(error)))
    return False


@pytest.mark.parametrize("binary", servers())
def test_a_restart_keeps_what_the_users_wrote(binary: Path) -> None:
    """What scripts write is a transaction in the server's file, and it may be what it was then.

    A default user without rights had all of it left out, and the server said so in its log only.
    """
    with everyone(binary) as redis:
        written = (f"{PREFIX}:{{1}}:run:a", f"{PREFIX}:{{1}}:run:b")
        script = "for _, key in ipairs(KEYS) do redis.call('HSET', key, 'state', 'queued') end"
        with Redis.from_url(redis.url("gateway")) as connection:
            connection.eval(script, len(written), *written)
        redis.server.end()
        redis.server.start()
        assert redis.server.command("EXISTS", *written) == len(written)
        with (
            Redis(port=redis.server.port) as stranger,
            pytest.raises(AuthenticationError),
        ):
            stranger.ping()
        for password in ("", "default"):
            with (
                Redis.from_url(redis.url("default", password)) as connection,
                pytest.raises(AuthenticationError),
            ):
                connection.ping()


# --- the list itself


def test_the_rights_name_every_command_of_the_source() -> None:
    """Also those that only a rare moment needs, so that no right is missing then; and no others."""
    with standalone() as server:
        known = {str(name).lower() for name in server.raw("COMMAND", "LIST")}
    allowed = {command for role in ROLES for command in rights.commands(role)}
    allowed |= {command for role in ROLES for command in rights.RIGHTS[role]["cluster"]}
    containers = {name.partition("|")[0] for name in allowed if "|" in name}
    used = {
        f"{name}|{first}".lower() if name.lower() in containers else name.lower()
        for name, first in source_commands()
        if name.lower() in known
    }
    assert {"xadd", "evalsha", "subscribe", "xgroup|create", "xinfo|consumers"} <= used
    assert used - allowed - AT_SENTINELS == set(), "used, and nobody may"
    by_the_client = {"client|setname", "select"}
    named = {word.lower() for word in re.findall(r"""["']([A-Z]+)["']""", source())}
    needless = {right for right in allowed if right.partition("|")[0] not in named}
    assert needless - by_the_client == set(), "allowed, and nobody needs it"


def test_every_script_is_somebodys() -> None:
    somebodys = {script for role in ROLES for script in rights.RIGHTS[role]["scripts"]}
    assert {script.name for script in scripts.ALL} == somebodys


def source_commands() -> Iterator[tuple[str, str]]:
    """What looks like a command in Python and Lua, with the word after it if that is literal."""
    python, lua = (
        re.compile(
            r"(?<!startswith)\((?:\s*|[\w.]+, )b?\"([A-Z]{3,})\"(?:, b?\"([A-Z]+)\")?\s*[,)]"
        ),
        re.compile(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?"),
    )
    yield from python.findall(source())
    yield from lua.findall(source())


def source() -> str:
    patterns = ("broker/**/*.py", "gateway/**/*.py", "broker/**/*.lua")
    return "\n".join(path.read_text("utf-8") for each in patterns for path in ROOT.glob(each))


# --- the fleet on one machine


def test_the_fleet_script_runs_each_process_as_its_own_user(tmp_path: Path) -> None:
    """With passwords of its own, and nobody comes in without one."""
    port = free_port()
    env = {"FLEET_PORTS": str(port), "FLEET_WORKERS": "1", "TMPDIR": str(tmp_path)}
    process = spawn(["bash", str(ROOT / "compose" / "fleet.sh")], tmp_path / "fleet.log", env)
    try:
        wait_until(
            lambda: "Ctrl-C drains" in process.printed() or process.popen.poll() is not None,
            seconds=200,
            what="the fleet serves",
        )
        assert is_ready(port), process.printed()
        found = re.search(r"redis +redis://127\.0\.0\.1:(\d+)", process.printed())
        assert found is not None, process.printed()
        with Redis(port=int(found[1])) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        secret = re.search(r"RUNCAST_JWT_SECRET='(\S+)'", process.printed())
        assert secret is not None
        command = [sys.executable, "-m", "gateway", "chat", "--user", "alice", "1 2 3"]
        where = {"RUNCAST_URL": f"ws://127.0.0.1:{port}/ws", "RUNCAST_JWT_SECRET": secret[1]}
        chat = spawn(command, tmp_path / "chat.log", where)
        assert chat.ended() == 0, chat.printed()
        logs = {path.name: path.read_text() for path in tmp_path.glob("runcast-fleet-*/*.log")}
        assert {f"gateway-{port}.log", "worker-1.log"} <= set(logs)
        assert not any(re.search("NOPERM|permission", log) for log in logs.values()), logs
    finally:
        status = process.end(signal.SIGTERM)
    assert status == 0, process.printed()


@pytest.mark.parametrize("workers", [0, 3])
def test_the_fleet_script_tells_of_the_part_that_ended(workers: int, tmp_path: Path) -> None:
    """Of the gateway, whichever part is waited for; who holds its port answers nothing."""
    (tmp_path / "slow_agents.py").write_text("import time\ntime.sleep(3600)\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {
            "FLEET_PORTS": str(port), "FLEET_WORKERS": str(workers), "TMPDIR": str(tmp_path),
            "PYTHONPATH": str(tmp_path),
        }  # fmt: skip
        command = ["bash", str(ROOT / "compose" / "fleet.sh"), "slow_agents:worker"]
        process = spawn(command, tmp_path / "fleet.log", env)
        assert process.ended(seconds=200) == 1
    assert f"gateway-{port} does not run" in process.printed()
    assert "Address already in use" in process.printed()
