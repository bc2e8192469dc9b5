"""What tools take and give, as events carry it."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from agents_sdk.values import HIDDEN, PREVIEW_CHARACTERS, hide, jsonable, shown


class Colour(enum.Enum):
    RED = "red"


class Model(BaseModel):
    name: str
    key: SecretStr = SecretStr("s3cret")


@dataclasses.dataclass
class Point:
    x: int
    at: Any = None


class Untellable:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Plain:
    def __str__(self) -> str:
        return "plain"


class Measured(float):
    """As the numbers of NumPy are: ``float`` to Python, and nothing to a JSON library."""


@dataclasses.dataclass(repr=False)
class Unfinished:
    x: int = dataclasses.field(init=False)

    def __str__(self) -> str:
        return "unfinished"


ONE = uuid.UUID(int=1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        ("ä", "ä"),
        ("\ud800", "?"),
        (2**70, str(2**70)),
        (b"abc", "3 bytes"),
        (ONE, str(ONE)),
        (datetime(2026, 11, 23, tzinfo=UTC), "2026-11-23 00:00:00+00:00"),
        (Colour.RED, "red"),
        ((1, {2}), [1, [2]]),
        ({1: "a", ONE: Colour.RED}, {"1": "a", str(ONE): "red"}),
        (Model(name="a"), {"name": "a", "key": "**********"}),
        (Point(1, Point(2)), {"x": 1, "at": {"x": 2, "at": None}}),
        (Plain(), "plain"),
        (Untellable(), "<Untellable>"),
        (Measured(1.5), 1.5),
        ({"\ud800": 1}, {"?": 1}),
        ({Untellable(): 1}, {"<Untellable>": 1}),
        (Unfinished(), "unfinished"),
    ],
)
def test_everything_has_a_form(value: Any, expected: Any) -> None:
    """And one that is JSON: a tool's call never fails for what it gave."""
    found = jsonable(value)
    assert found == expected
    assert orjson.loads(orjson.dumps(found)) == expected


def test_what_contains_itself_ends() -> None:
    value: dict[str, Any] = {}
    value["me"] = value
    assert "…" in str(jsonable(value))


def test_a_copy_does_not_change_with_its_original() -> None:
    value = {"rows": [1]}
    copy = jsonable(value)
    value["rows"].append(2)
    assert copy == {"rows": [1]}


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(value=json, most=st.integers(0, 2000))
def test_any_value_is_json_and_not_much_larger_than_allowed(value: Any, most: int) -> None:
    """The beginning of one that is too large has at most so many characters, and its size."""
    encoded = orjson.dumps(shown(value, max_bytes=most))
    # A control character takes six bytes in JSON, and as JSON within JSON one more.
    assert len(encoded) <= max(most, 7 * PREVIEW_CHARACTERS + 40)


def test_the_beginning_of_what_is_too_large_says_how_large_it_is() -> None:
    assert shown("x" * 3000, max_bytes=1000) == "x" * 500 + "… (3002 bytes in all)"
    assert shown([1, 2], max_bytes=1) == "[1,2]… (5 bytes in all)"


def test_hidden_values_are_not_there() -> None:
    assert hide({"user": "a", "password": "b"}, {"password"}) == {"user": "a", "password": HIDDEN}
