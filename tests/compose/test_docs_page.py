"""The terminal of "How to run a fleet with Docker" answers as it is shown."""

from pathlib import Path

import pytest

from tests.integration.test_docs_examples import ROOT, Reader, Session
from tests.support.docker_fleet import DockerFleet

pytestmark = pytest.mark.timeout(600)


def test_the_page_does_what_it_shows(installation: DockerFleet, tmp_path: Path) -> None:
    """In the checkout, with the ports and names of this installation."""
    session = Session(tmp_path)
    session.work = ROOT
    session.ports = {"8080": installation.ports["PUBLIC_PORT"]}
    session.env = {**installation.env, "PATH": session.env["PATH"]}
    reader = Reader(session)
    reader.follow("docs/how-to/run-with-docker.md")
    assert len(reader.answers) > 5
    wrong = [text for text, as_shown in reader.answers if not as_shown]
    assert not wrong, "\n\n".join(wrong)
