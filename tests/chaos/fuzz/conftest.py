"""The system that is fuzzed: a gateway and a worker as processes, on keys of their own."""

from collections.abc import Iterator

import pytest

from tests.support.fuzzing import Bench, running_bench
from tests.support.servers import Redis, running_fleet


@pytest.fixture(scope="session")
def bench(redis_server: Redis) -> Iterator[Bench]:
    with (
        running_fleet(
            redis_server, RUNCAST_PREFIX="fuzz", RUNCAST_ALLOW_QUERY_TOKEN="true"
        ) as fleet,
        running_bench(fleet) as bench,
    ):
        yield bench
