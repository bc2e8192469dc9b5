"""Protocol 3 itself, as one of the dialects."""

import pytest

from gateway.dialects.dialect import Frame, Run
from gateway.dialects.native import Native

RUN = Run("r", "t", "a")


def test_everything_is_passed_on_as_it_is() -> None:
    native = Native(RUN, None)
    assert list(native.event(Frame(b"{}", b"5-0", {}))) == [(b"{}", b"5-0")]
    assert list(native.event(Frame(b"{}", b"", {}))) == [(b"{}", b"")]
    assert list(native.control(Frame(b"{}", b"4-0", {}))) == [(b"{}", b"4-0")]


def test_what_the_reader_has_is_left_out_but_never_text() -> None:
    """Cursors are compared as numbers."""
    native = Native(RUN, "5-9")
    assert list(native.event(Frame(b"{}", b"5-9", {}))) == []
    assert list(native.event(Frame(b"{}", b"5-10", {}))) != []
    assert list(native.event(Frame(b"{}", b"", {}))) != []


def test_a_position_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="cursor"):
        Native(RUN, "yesterday")
