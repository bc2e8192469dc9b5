"""What every dialect has in common."""

import pytest

from broker.cursor import Cursor
from gateway.dialects.dialect import Dialect


def test_a_position_is_a_cursor_unless_the_dialect_says_otherwise() -> None:
    assert Dialect.position("5-9") == Cursor(5, 9)
    with pytest.raises(ValueError, match="cursor"):
        Dialect.position("5-9 and more")
