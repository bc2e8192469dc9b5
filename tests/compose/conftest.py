"""One fleet for all tests; each finds it whole, whatever the one before did to it."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.docker_fleet import DockerFleet


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerFleet]:
    """Where it is brought up, and taken down in the end: nothing of it may be left."""
    if subprocess.run(["docker", "info"], check=False, capture_output=True).returncode:
        pytest.fail("no Docker engine answers; make compose starts one")
    fleet = DockerFleet(tmp_path_factory.mktemp("compose"))
    try:
        yield fleet
    finally:
        fleet.down()
    assert fleet.left() == []


@pytest.fixture
def fleet(installation: DockerFleet) -> DockerFleet:
    installation.up()
    return installation
