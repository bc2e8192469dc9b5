"""compose/haproxy/haproxy.cfg, run by a real HAProxy: what it hands on, to whom, and what not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import aiohttp
import pytest
import structlog
from aiohttp import web
from yarl import URL

from broker.config import Settings
from gateway.app import Gateway, create_app
from tests.integration.sdk_rig import until
from tests.integration.test_cross_site import handshake
from tests.support.balancer import CONFIG, HAPROXY, Balancer, balancer
from tests.support.clients import PATIENCE_SECONDS, Client
from tests.support.servers import OPERATOR_KEY, WORKER_KEY, token

pytestmark = [
    pytest.mark.skipif(HAPROXY is None, reason="there is no haproxy (apt install haproxy)"),
    pytest.mark.timeout(300),
]

INSIDE: Final = ("/metrics", "/ws/stats", "/console", "/api/v1/admin", "/api/v1/events")
"""What begins like this is for operators and workers."""


@pytest.fixture
def front() -> Iterator[Balancer]:
    with balancer() as running:
        yield running


@asynccontextmanager
async def gateways(
    settings: Settings, front: Balancer, count: int = 1
) -> AsyncIterator[list[Gateway]]:
    """So many in this process, each at an address of its own; the load balancer has found them."""
    hosts = [f"127.0.0.{2 + number}" for number in range(count)]
    async with AsyncExitStack() as stack:
        running = []
        for host in hosts:
            update = {"host": host, "port": front.gateway_port, "trusted_proxies": ("127.0.0.1",)}
            gateway = Gateway(settings.model_copy(update=update))
            running.append(await stack.enter_async_context(gateway))
        front.names.addresses = tuple(hosts)
        await are_up(front, count)
        yield running


async def are_up(front: Balancer, count: int) -> None:
    async def holds() -> bool:
        return await asyncio.to_thread(front.up) == count

    await until(holds)


async def status(base: str, path: str, method: str = "GET", **headers: str) -> int:
    return (await answer(base, path, method, **headers))[0]


async def answer(base: str, path: str, method: str, **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.request(method, URL(f"{base}{path}", encoded=True)) as response,
    ):
        return response.status, await response.text()


async def test_sockets_and_streams_come_through(settings: Settings, front: Balancer) -> None:
    async with gateways(settings, front), Client(front.base, "alice") as client:
        await client.first("live")
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token('alice')}"}) as http,
            http.get(f"{front.base}/sse") as stream,
        ):
            assert stream.status == 200
            async with asyncio.timeout(PATIENCE_SECONDS):
                while b'"type":"live"' not in (line := await stream.content.readline()):
                    assert line, "the stream ended"
            await client.send("ping", {"n": 1}, ref="p")
            assert (await client.reply("p"))["payload"]["n"] == 1


async def test_who_the_client_is_stands_in_its_own_words_nowhere(
    settings: Settings, front: Balancer
) -> None:
    """The page's origin with its scheme and name, and the client's address."""
    async with gateways(settings, front):

        async def told(*headers: str, bearer: str | None = None) -> int:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", front.public, local_addr=("127.0.0.9", 0)
            )
            writer.write(handshake(*headers, host=f"127.0.0.1:{front.public}", bearer=bearer))
            line = await reader.readline()
            writer.close()
            return int(line.split()[1])

        assert await told(f"Origin: http://127.0.0.1:{front.public}") == 101
        assert await told(f"Origin: https://127.0.0.1:{front.public}") == 403
        forged = ("X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https")
        assert await told(*forged, "Origin: https://evil.example") == 403
        with structlog.testing.capture_logs() as logs:
            forged = ("X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1")
            assert await told(*forged, bearer="wrong") == 401
        (refused,) = [each for each in logs if each["event"] == "connection_refused"]
        assert refused["client"] == "127.0.0.9"


async def test_what_is_for_operators_and_workers_is_served_inside_only(
    settings: Settings, front: Balancer
) -> None:
    inside = f"http://127.0.0.1:{front.inside}"
    operator = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    async with gateways(settings, front):
        for path in ("/ws/stats", "/api/v1/admin/nodes"):
            assert await status(inside, path, **operator) == 200
            for spelled in (
                path,
                path.replace("s", "%73"),
                path.replace("a", "%61"),
                f"{path}?a=1",
            ):
                assert await status(front.base, spelled, **operator) == 404, spelled
        worker = {"Authorization": f"Bearer {WORKER_KEY}"}
        assert await status(inside, "/api/v1/events", "POST", **worker) == 400
        assert await status(front.base, "/api/v1/events", "POST", **worker) == 404
        # One gateway's figures at a time would be nobody's.
        assert await status(inside, "/metrics", **operator) == 404
        assert await status(front.base, "/metrics", **operator) == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/admin/users/%zz/disconnect"),
        ("POST", "/api/v1/%61dmin/nodes/100%/drain"),
        ("GET", "/api/v1/admin/users/a%/runs/r1"),
        ("GET", "/api/v1/admin/users/%7/runs/r1"),
    ],
)
async def test_what_cannot_be_decoded_gets_through_to_nobody(
    settings: Settings, front: Balancer, method: str, path: str
) -> None:
    """A gateway takes such an id as it stands: operators' paths with one in them were public."""
    operator = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    async with gateways(settings, front):
        assert await status(front.base, path, method, **operator) == 400


async def test_every_path_of_a_gateway_is_public_or_inside(
    settings: Settings, front: Balancer
) -> None:
    """One that is added has to be told apart here, and in the configuration."""
    paths = {
        resource.canonical.replace("{", "").replace("}", "").replace(":[^/]+", "")
        for resource in create_app(settings).router.resources()
    }
    async with gateways(settings, front):
        for path in sorted(paths):
            code, body = await answer(front.base, path, "OPTIONS")
            hidden = code == 404 and "served inside only" in body
            assert hidden == path.startswith(INSIDE), f"{path}: {code} {body}"


async def test_a_draining_gateway_refuses_nobody_and_keeps_its_clients(
    settings: Settings, front: Balancer
) -> None:
    """Who comes before its health check has told is sent to the other one."""
    async with gateways(settings, front, 2) as (old, new), AsyncExitStack() as stack:

        async def come(name: str) -> Client:
            client = Client(front.base, name)
            await stack.enter_async_context(client)
            await client.first("live")
            return client

        first = [await come(f"first {number}") for number in range(8)]
        there = len(old.node.sockets)
        assert there, "nobody is connected to the one that drains"
        old.node.draining = True
        for number in range(8):
            await come(f"second {number}")
        assert len(old.node.sockets) == there
        assert len(new.node.sockets) == 16 - there
        await are_up(front, 1)
        for client in first:
            await client.send("ping", {}, ref="p")
            await client.reply("p")
        old.node.draining = False
        await are_up(front, 2)


async def test_what_writes_is_sent_once(front: Balancer) -> None:
    """A gateway that fails is asked again, or another one, by who only reads."""
    asked: list[str] = []

    async def fail(request: web.Request) -> web.Response:
        if request.path == "/readyz":
            return web.Response()
        asked.append(request.method)
        return web.Response(status=503)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fail)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.2", front.gateway_port).start()
        front.names.addresses = ("127.0.0.2",)
        await are_up(front, 1)
        assert await status(front.base, "/api/v1/messages", "POST") == 503
        assert asked == ["POST"]
        assert await status(front.base, "/ws/config") == 503
        assert asked == ["POST", *["GET"] * 4]
    finally:
        await runner.cleanup()


async def test_nobody_ready_is_told_as_the_protocol_has_it(front: Balancer) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{front.base}/ws") as response:
        assert response.status == 503
        assert response.content_type == "application/problem+json"
        assert response.headers["Retry-After"] == "1"
        body: dict[str, Any] = await response.json()
    assert (body["status"], body["code"]) == (503, "broker_unavailable")


async def test_a_name_server_that_forgets_takes_no_gateway_away(
    settings: Settings, front: Balancer
) -> None:
    """As Docker's does while a network is changed; whether a gateway is there its check tells."""
    async with gateways(settings, front):
        front.names.addresses = ()
        asked = front.names.asked
        await until(lambda: front.names.asked >= asked + 10)  # five seconds
        assert await status(front.base, "/ws/config") == 200


async def test_a_reload_costs_nobody_his_connection(settings: Settings, front: Balancer) -> None:
    async with gateways(settings, front), Client(front.base, "alice") as client:
        await client.first("live")
        master = front.process.popen
        before = front.workers()
        os.kill(master.pid, signal.SIGUSR2)

        async def reloaded() -> bool:
            return len(front.workers()) == len(before) + 1

        await until(reloaded)
        await are_up(front, 1)
        async with Client(front.base, "bob") as other:
            await other.first("live")
        await client.send("ping", {}, ref="p")
        await client.reply("p")


def test_it_is_a_configuration_without_anything_set() -> None:
    assert HAPROXY is not None
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LB_")}
    checked = subprocess.run(
        [HAPROXY, "-c", "-f", str(CONFIG)], env=clean, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr, checked.stderr
