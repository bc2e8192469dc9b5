"""A gateway that real clients connect to, and workers with agents of other frameworks."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import structlog

from tests.support.servers import Fleet, Redis, running_fleet


@dataclass
class System:
    """One gateway on one Redis. A module's worker is started when the first test asks for it."""

    fleet: Fleet
    base: str
    serving: set[str] = field(default_factory=set)

    def serve(self, module: str) -> None:
        """Have a worker process with the agents of ``module:worker``."""
        if module not in self.serving:
            self.fleet.worker(f"{module}:worker")
            self.serving.add(module)


@pytest.fixture
def quiet() -> Iterator[None]:
    """A failed agent's traceback is not what is tested, and a long one takes seconds to draw."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture(scope="session")
def system(redis_server: Redis) -> Iterator[System]:
    with running_fleet(redis_server, RUNCAST_PREFIX="integrations") as fleet:
        yield System(fleet, fleet.gateway())
