"""The profile ``sentinel``: a replica, and three sentinels who agree when it takes over."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.chaos_client import ChaosClient
from tests.support.docker_fleet import DockerFleet

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def guarded(installation: DockerFleet) -> Iterator[DockerFleet]:
    """The fleet with the profile; without it, and without its data, for those that come after."""
    installation.up(COMPOSE_PROFILES="sentinel")
    yield installation
    installation.down()


async def test_a_run_begins_and_ends_after_the_masters_death(guarded: DockerFleet) -> None:
    """The client stays connected or comes back, and nobody starts anything anew."""
    assert "redis+sentinel://" in await asyncio.to_thread(guarded.settings, "worker")
    async with ChaosClient([guarded.base], "carol") as client, asyncio.timeout(300):
        await client.until_live()
        before = await client.until_ended(await client.ask("1 2 3", agent="analyst"))
        (master,) = await asyncio.to_thread(guarded.containers, "redis")
        await asyncio.to_thread(guarded.docker, "kill", master)
        after = await client.until_ended(await client.ask("4 5 6", agent="analyst"), seconds=240.0)
    assert [each["payload"]["status"] for each in (before, after)] == ["succeeded"] * 2
