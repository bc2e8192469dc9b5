"""The running system that the promises are checked on: processes, as an operator starts them."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from broker.config import Settings
from tests.support.servers import Fleet, Redis, running_fleet


@dataclass
class System:
    """Two gateways and a worker on one Redis."""

    fleet: Fleet
    first: str
    second: str


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Nobody renews the leases of runs that a test keeps itself, however slow the machine is."""
    return settings.model_copy(update={"lease_seconds": 300})


@pytest.fixture(scope="session")
def system(redis_server: Redis) -> Iterator[System]:
    with running_fleet(
        redis_server,
        RUNCAST_PREFIX="mission",
        RUNCAST_LEASE_SECONDS="10",
        RUNCAST_STOP_DEADLINE_SECONDS="2",
        RUNCAST_DRAIN_SECONDS="1",
    ) as fleet:
        fleet.worker()
        yield System(fleet, fleet.gateway(), fleet.gateway())
