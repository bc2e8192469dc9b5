"""The examples of "How to bring your framework" run as they stand."""

from pathlib import Path

import pytest

from tests.integration.test_docs_examples import Reader, Session

pytestmark = pytest.mark.timeout(150)


def test_the_page_does_what_it_shows(tmp_path: Path) -> None:
    reader = Reader(Session(tmp_path))
    reader.follow("docs/how-to/bring-your-framework.md")
    assert len(reader.answers) > 2
    wrong = [text for text, as_shown in reader.answers if not as_shown]
    assert not wrong, "\n\n".join(wrong)
