"""Servers for every kind of test. A Redis per test process, a key prefix per test."""

import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest

from broker.channels import Keys
from broker.config import Settings, load_settings
from broker.redis.broker import Broker
from broker.redis.store import Limits
from broker.redis.topology import new_client
from gateway.app import Gateway
from tests.support.seeds import SEED
from tests.support.servers import (
    OPERATOR_KEY,
    READY_SECONDS,
    SECRET,
    WORKER_KEY,
    Redis,
    running_redis,
)

# A property has its test's ten seconds, not a part of them for each example: machines are shared.
# A run with a seed is asked for the same cases again, of every property.
hypothesis.settings.register_profile("shared", deadline=None, derandomize=SEED in os.environ)
hypothesis.settings.load_profile("shared")

# A shell that runs the tests in the background lets them ignore SIGINT, and their children inherit
# that: Ctrl-C could not be tried.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A redis-server that all tests of this process share; nobody stops it or flushes it."""
    with running_redis() as redis:
        yield redis


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    return redis_server.url


@pytest.fixture
def prefix() -> str:
    """Keys of this test only."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def settings(redis_url: str, prefix: str) -> Settings:
    return load_settings(
        redis_url=redis_url,
        prefix=prefix,
        jwt_secret=SECRET,
        operator_key=OPERATOR_KEY,
        worker_key=WORKER_KEY,
        port=0,
        drain_seconds=0,
    )


@pytest.fixture
async def broker(settings: Settings, redis_url: str) -> AsyncIterator[Broker]:
    client = new_client(redis_url, name="test")
    await client.start(timeout_seconds=READY_SECONDS)
    yield Broker(client, keys=Keys(settings.prefix), limits=Limits.of(settings))
    await client.stop()


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway in this process, on a port of its own."""
    async with Gateway(settings) as running:
        yield running


@pytest.fixture
def base(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.port}"
