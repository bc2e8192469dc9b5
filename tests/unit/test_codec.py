"""The header and the body of an event: what goes in comes out, whatever the ids contain."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.channels import Owner, decode_id, encode_id
from broker.codec import NO_ID, from_live, from_log, head, unreadable
from broker.cursor import ZERO, Cursor
from broker.events import LIFECYCLE, encode, encode_delta

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

IDS = st.text(
    st.one_of(st.sampled_from(' :{}%*?[]\\"-\u2028é\U0001f642'), st.characters(codec="utf-8")),
    min_size=1, max_size=12,
)  # fmt: skip
CURSORS = st.builds(Cursor, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@relaxed
@given(
    owner=st.builds(Owner, IDS | st.just(""), IDS), thread=IDS, run=IDS, cursor=CURSORS,
    prev=CURSORS, seq=st.integers(0, 10**9), kind=st.sampled_from(LIFECYCLE),
    text=st.text(max_size=40),
)  # fmt: skip
def test_what_the_log_and_the_live_channel_carry_is_the_same_event(  # noqa: PLR0917 - by name
    owner: Owner, thread: str, run: str, cursor: Cursor, prev: Cursor, seq: int, kind: str,
    text: str,
) -> None:  # fmt: skip
    """Both forms give one entry, every word comes back as it was, the text is the event with id."""
    body = encode(
        event_type=kind, user_id=owner.user, thread_id=thread, run_id=run, agent_name="a",
        epoch_ms=0, payload={"message": text}, seq=seq,
    )  # fmt: skip
    value = b"%b %b %d %b\n%b" % (prev.raw, head(owner, thread, run), seq, kind.encode(), body)
    logged, live = from_log(cursor.raw, value), from_live(cursor.raw + b" " + value)
    for entry in (logged, live):
        assert entry.cursor == cursor
        assert (entry.id, entry.prev) == (cursor.raw, prev.raw)
        assert Owner.from_token(entry.owner.decode()) == owner
        assert decode_id(entry.thread.decode()) == thread
        assert decode_id(entry.run.decode()) == run
        assert (int(entry.seq), entry.type) == (seq, kind.encode())
        assert entry.body == body
        assert orjson.loads(entry.text()) == {"id": str(cursor), **orjson.loads(body)}


@relaxed
@given(IDS, IDS, st.integers(0, 10**6), st.text(max_size=20))
def test_a_delta_has_no_id_and_no_place_in_the_log(
    thread: str, run: str, offset: int, text: str
) -> None:
    """Its text is sent as it is, its header says from where to where."""
    body, following = encode_delta(
        run_id=run, thread_id=thread, agent_name="a", offset=offset, text=text
    )
    words = head(Owner("", "u"), thread, run)
    delta = from_live(b"%b %d %b %d agent_delta\n%b" % (NO_ID, following, words, offset, body))
    assert delta.id == NO_ID
    assert delta.cursor == ZERO
    assert (int(delta.seq), int(delta.prev)) == (offset, offset + len(text.encode()))
    assert delta.text() == body


@relaxed
@given(IDS, IDS, IDS)
def test_the_head_is_three_words_whatever_the_ids(tenant: str, thread: str, run: str) -> None:
    """No id can add a word or a line to a header."""
    words = head(Owner(tenant, "u"), thread, run)
    assert b"\n" not in words
    assert words.split(b" ") == [
        f"{encode_id(tenant)}:u".encode(), encode_id(thread).encode(), encode_id(run).encode()
    ]  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [b"", b"\n", b"no newline", b"1-0 0-0 :u t r 1\n{}", b"1-0 0-0 :u t r 1 x y\n{}",
     b"1-0 0-0 :u t \xff 1 kind\n{}", b"x-0 0-0 :u t r 1 kind\n{}", b"1 0-0 :u t r 1 kind\n{}"],
)  # fmt: skip
def test_a_malformed_message_is_a_value_error(message: bytes) -> None:
    """The hot path has one exception to catch."""
    with pytest.raises(ValueError):  # noqa: PT011 - which words it has does not matter here
        from_live(message)


def test_an_unreadable_entry_keeps_its_place_and_belongs_to_nobody() -> None:
    """What follows it is linked to it; no owner's word can be its own."""
    entry = unreadable(b"5-0", b"4-0")
    assert (entry.cursor, entry.prev) == (Cursor(5, 0), b"4-0")
    assert b":" not in entry.owner
    assert b":" in Owner("", "x").token.encode()
