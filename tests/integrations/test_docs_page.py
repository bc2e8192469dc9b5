"""The examples of the pages that need a framework, or OpenTelemetry, run as they stand."""

from pathlib import Path

import pytest

from tests.integration.test_docs_examples import Reader, Session

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("page", ["bring-your-framework.md", "trace-a-run.md"])
def test_the_page_does_what_it_shows(tmp_path: Path, page: str) -> None:
    reader = Reader(Session(tmp_path))
    reader.follow(f"docs/how-to/{page}")
    assert len(reader.answers) > 2
    wrong = [text for text, as_shown in reader.answers if not as_shown]
    assert not wrong, "\n\n".join(wrong)
