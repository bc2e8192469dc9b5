"""The faults themselves, each against a real redis-server: one that does nothing proves nothing."""

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.support.clients import eventually
from tests.support.fault_proxy import FaultProxy
from tests.support.faults import Way, acknowledgement, command, named, published
from tests.support.servers import Redis, running_redis

pytestmark = pytest.mark.chaos


@pytest.fixture
def proxy(redis_server: Redis) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", redis_server.port)) as running:
        yield running


@contextlib.asynccontextmanager
async def connected(
    proxy: FaultProxy, name: str = "gateway one", **options: float
) -> AsyncIterator[redis.asyncio.Redis]:
    """A client with one connection that does not try again by itself."""
    client = redis.asyncio.Redis(
        port=proxy.port,
        client_name=name.replace(" ", "%20"),
        single_connection_client=True,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **{"socket_timeout": 5.0, **options},  # type: ignore[arg-type]  # by name
    )
    async with client:
        await client.ping()
        yield client


async def test_without_a_fault_everything_passes_unchanged(proxy: FaultProxy, prefix: str) -> None:
    async with connected(proxy) as client:
        value = bytes(range(256)) * 4096
        await client.set(prefix, value)
        assert await client.get(prefix) == value
        async with client.pipeline(transaction=False) as pipeline:
            for number in range(500):
                pipeline.echo(str(number))
            assert await pipeline.execute() == [b"%d" % number for number in range(500)]
    assert proxy.counters.bytes_up > len(value)
    assert proxy.counters.bytes_down > len(value)
    assert proxy.counters.cut == 0


async def test_a_delay_costs_time_each_way_and_no_throughput(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        with proxy.delay(0.1):
            began = time.monotonic()
            async with client.pipeline(transaction=False) as pipeline:
                for number in range(200):
                    pipeline.echo(str(number))
                assert await pipeline.execute() == [b"%d" % number for number in range(200)]
            took = time.monotonic() - began
        assert 0.2 <= took < 20, f"200 commands in one pipeline took {took:.3f} s at 0.1 s each way"
        with proxy.delay(60):
            pass
        began = time.monotonic()
        await client.ping()
        assert time.monotonic() - began < 30, "the delay has ended"


async def test_a_cut_resets_connections_and_new_ones_may_be_refused(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        with proxy.down() as fault:
            with pytest.raises(redis.exceptions.ConnectionError):
                await client.ping()
            with pytest.raises(redis.exceptions.ConnectionError):
                async with connected(proxy):
                    pass
            assert fault.hits >= 2
        async with connected(proxy) as another:
            assert await another.ping()
    assert proxy.counters.cut == 1
    assert proxy.counters.refused >= 1


async def test_a_fault_may_mean_connections_of_one_name_only(proxy: FaultProxy) -> None:
    async with connected(proxy, "gateway one") as one, connected(proxy, "worker-1 leases") as two:
        assert sorted(proxy.names()) == ["gateway one", "worker-1 leases"]
        with proxy.down(named("worker-* leases")):
            assert await one.ping()
            with pytest.raises(redis.exceptions.ConnectionError):
                await two.ping()
            with pytest.raises(redis.exceptions.ConnectionError):
                async with connected(proxy, "worker-2 leases"):
                    pass
            async with connected(proxy, "gateway two") as three:
                assert await three.ping()


@pytest.mark.parametrize("way", [Way.UP, Way.DOWN, Way.BOTH])
async def test_a_black_hole_swallows_and_keeps_the_connection_open(
    proxy: FaultProxy, prefix: str, way: Way
) -> None:
    """No FIN, no RST: the one who waits hears nothing. One direction: the command still arrives."""
    async with connected(proxy, socket_timeout=2) as client, connected(proxy, "other") as other:
        fault = proxy.black_hole(way, named("gateway *"))
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.set(prefix, "x")
        assert await other.get(prefix) == (b"x" if way is Way.DOWN else None)
        assert fault.hits >= 1
        assert proxy.counters.cut == 0, "nobody was told"
        fault.end()
        await eventually(lambda: proxy.names() == ["other"])
    assert proxy.counters.bytes_swallowed > 0


async def test_a_black_hole_may_spare_new_connections(proxy: FaultProxy) -> None:
    async with connected(proxy, socket_timeout=2) as old:
        with proxy.black_hole(spare_new=True):
            async with connected(proxy) as new:
                assert await new.ping()
            with pytest.raises(redis.exceptions.TimeoutError):
                await old.ping()


async def test_what_is_stalled_goes_on_in_order_and_is_not_lost(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        with proxy.stall(Way.DOWN) as fault:
            reply = asyncio.ensure_future(client.echo("late"))
            await eventually(lambda: fault.hits > 0)
            assert not reply.done()
        assert await reply == b"late"
    assert proxy.counters.cut == 0


async def test_bytes_are_split_anywhere(proxy: FaultProxy, prefix: str) -> None:
    value = bytes(range(256)) * 8
    with proxy.split(3) as fault:
        async with connected(proxy) as client:
            await client.set(prefix, value)
            assert await client.get(prefix) == value
    assert fault.hits > 2 * len(value) / 3


async def test_new_connections_go_elsewhere_while_old_ones_stay(proxy: FaultProxy) -> None:
    with running_redis() as second:
        async with connected(proxy) as old:
            port = (await old.info("server"))["tcp_port"]
            proxy.retarget(("127.0.0.1", second.port))
            async with connected(proxy) as new:
                assert (await new.info("server"))["tcp_port"] == second.port
            assert (await old.info("server"))["tcp_port"] == port


async def test_the_nth_published_message_is_suppressed(proxy: FaultProxy, prefix: str) -> None:
    """By channel and payload; everything else on the connection passes."""
    async with connected(proxy) as client, connected(proxy, "subscriber one") as listener:
        fault = proxy.suppress(published(f"{prefix}:*"), nth=3, to=named("subscriber *"))
        by_payload = proxy.suppress(published(payload=b"7"), times=None)
        async with listener.pubsub() as pubsub:
            await pubsub.subscribe(f"{prefix}:a", "elsewhere")
            for number in range(8):
                await client.publish(f"{prefix}:a", str(number))
            got = []
            async for message in pubsub.listen():
                if message["type"] == "message":
                    got.append(int(message["data"]))
                if got[-1:] == [6]:
                    break
        assert got == [0, 1, 3, 4, 5, 6]
        await eventually(lambda: by_payload.hits == 1)
        assert fault.hits == 1
    assert proxy.counters.suppressed == 2
    assert proxy.counters.messages == 8


async def test_a_reply_is_lost_after_its_command_was_carried_out(
    proxy: FaultProxy, prefix: str
) -> None:
    """Replies to the commands before it arrive."""
    async with connected(proxy) as client:
        fault = proxy.lose_reply(command("INCRBY", prefix.encode()), nth=2)
        assert await client.incr(prefix) == 1
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.incr(prefix)
        assert fault.hits == 1
    async with connected(proxy) as client:
        assert await client.get(prefix) == b"2", "carried out"
        assert await client.incr(prefix) == 3
    assert proxy.counters.replies_lost == 1


async def test_a_connection_is_cut_at_a_command_or_at_a_reply(
    proxy: FaultProxy, prefix: str
) -> None:
    async with connected(proxy) as client, connected(proxy, "other") as other:
        proxy.cut_at(command("INCRBY"), to=named("gateway *"))
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.incr(prefix)
        assert await other.get(prefix) is None, "it never arrived"
    at_reply = proxy.cut_at(acknowledgement(b"subscribe"), nth=2, way=Way.DOWN)
    async with connected(proxy) as client, client.pubsub() as pubsub:
        await pubsub.subscribe("one", "two", "three")
        with pytest.raises(redis.exceptions.ConnectionError):  # noqa: PT012 - at one of the three
            for _ in range(3):
                await pubsub.get_message(timeout=30)
    assert at_reply.hits == 1


async def test_what_is_not_resp_passes_as_it_is(proxy: FaultProxy) -> None:
    """An inline command, as a health check of three letters sends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"PING\r\n")
    assert await reader.readline() == b"+PONG\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_unix_socket_can_be_the_upstream(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("s") / "s"

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_unix_server(echo, place)
    async with server:
        with FaultProxy(place, resp=False) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"hello\n")
            assert await reader.read() == b"hello\n"
            writer.close()
            await writer.wait_closed()


def test_who_connects_as_it_ends_is_reset(
    redis_server: Redis, recwarn: pytest.WarningsRecorder
) -> None:
    """What was left open was collected later, and failed whichever test was running then."""
    with contextlib.ExitStack() as places:
        for _ in range(20):
            with FaultProxy(("127.0.0.1", redis_server.port)) as proxy:
                for _ in range(6):
                    place = socket.create_connection(("127.0.0.1", proxy.port))
                    places.enter_context(contextlib.closing(place))
        gc.collect()
        assert [str(each.message) for each in recwarn.list] == []
