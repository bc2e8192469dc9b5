"""Bounded in bytes, in order, written in one piece; what does not fit is refused (promise G7)."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.outbox import MAX_UNSENT_BYTES, RESUME_BYTES, Outbox

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FRAMES = st.sampled_from([b"", b"a", b"bc", b"x" * 4096, b"y" * (MAX_UNSENT_BYTES // 2), b"z"])


def test_frames_leave_in_order_in_one_piece() -> None:
    """One write per turn, nothing twice."""
    outbox = Outbox()
    assert outbox.take() == b""
    assert outbox.push(b"one")
    assert outbox.take() == b"one"
    assert outbox.push(b"two ")
    outbox.put(b"three")
    assert outbox.take() == b"two three"
    assert outbox.take() == b""


def test_what_is_held_waits_behind_what_is_said_first() -> None:
    """``run_accepted`` comes before the first event of its run."""
    outbox = Outbox()
    outbox.held = True
    assert outbox.push(b"event")
    assert outbox.take() == b""
    outbox.put_first(b"accepted ")
    outbox.held = False
    assert outbox.take() == b"accepted event"


def test_a_stalled_outbox_takes_no_event_but_still_answers() -> None:
    """Events are in the log, answers are nowhere else."""
    outbox = Outbox()
    outbox.stalled = True
    assert (outbox.full, outbox.push(b"event")) == (True, False)
    outbox.put(b"pong")
    assert outbox.take() == b"pong"
    outbox.stalled = False
    assert (outbox.full, outbox.push(b"event")) == (False, True)


def test_there_is_room_up_to_the_limit_and_again_after_a_write() -> None:
    """An event that begins below the limit is taken whole: the bound is one frame more."""
    outbox = Outbox()
    assert outbox.push(b"x" * MAX_UNSENT_BYTES)
    assert (outbox.full, outbox.push(b"y")) == (False, True)
    assert (outbox.full, outbox.push(b"z")) == (True, False)
    assert len(outbox.take()) == MAX_UNSENT_BYTES + 1
    assert outbox.full is False
    assert RESUME_BYTES < MAX_UNSENT_BYTES


@relaxed
@given(
    st.lists(
        st.tuples(st.sampled_from(["push", "put", "put_first"]), FRAMES)
        | st.tuples(st.sampled_from(["take", "hold", "let_go", "stall", "drain"]), st.just(b"")),
        max_size=30,
    )
)
def test_whatever_happens_nothing_is_lost_doubled_or_kept_beyond_the_bound(
    moves: list[tuple[str, bytes]],
) -> None:
    """A list of bytes is the model; ``push`` says False exactly when there is no room."""
    outbox = Outbox()
    queue: list[bytes] = []
    for move, frame in moves:
        full = outbox.stalled or sum(map(len, queue)) > MAX_UNSENT_BYTES
        assert outbox.full == full
        if move == "push":
            assert outbox.push(frame) is not full
            queue += [] if full else [frame]
        elif move == "put":
            outbox.put(frame)
            queue.append(frame)
        elif move == "put_first":
            outbox.put_first(frame)
            queue.insert(0, frame)
        elif move == "take":
            assert outbox.take() == (b"" if outbox.held else b"".join(queue))
            queue = queue if outbox.held else []
        elif move in ("hold", "let_go"):
            outbox.held = move == "hold"
        else:
            outbox.stalled = move == "stall"


@relaxed
@given(st.lists(st.integers(1, MAX_UNSENT_BYTES), max_size=20))
def test_events_alone_never_exceed_the_limit_by_more_than_one_frame(sizes: list[int]) -> None:
    """Memory per socket is bounded in bytes, however many events come."""
    outbox = Outbox()
    taken = [size for size in sizes if outbox.push(bytes(size))]
    assert sum(taken) <= MAX_UNSENT_BYTES + max(taken, default=0)
    assert len(outbox.take()) == sum(taken)
