"""The AsyncAPI document obeys the AsyncAPI Initiative's own schema of AsyncAPI 3.0."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from tests.support.schemas import published

SPECS = Path(__file__).parent / "node_modules" / "@asyncapi" / "specs" / "schemas"


@pytest.fixture(scope="module")
def official() -> Draft7Validator:
    schema = json.loads((SPECS / "3.0.0-without-$id.json").read_text("utf-8"))
    assert schema["title"].startswith("AsyncAPI 3.0.0")
    return Draft7Validator(schema)


@pytest.fixture
def document() -> dict[str, Any]:
    return copy.deepcopy(published("asyncapi.json"))


def test_it_is_valid(official: Draft7Validator, document: dict[str, Any]) -> None:
    assert document["asyncapi"] == "3.0.0"
    assert [f"{each.json_path}: {each.message}" for each in official.iter_errors(document)] == []


@pytest.mark.parametrize("part", ["info", "channels", "operations", "servers"])
def test_the_schema_would_notice(
    official: Draft7Validator, document: dict[str, Any], part: str
) -> None:
    document[part]["title" if part == "info" else "broken"] = 1
    assert not official.is_valid(document)
