"""One event on its way through the pure modules. Each figure is for one call unless it says so."""

from pytest_benchmark.fixture import BenchmarkFixture

from broker import cursor
from broker.channels import Keys, Owner, Scope
from broker.codec import Entry, from_live, from_log
from broker.cursor import ZERO
from broker.events import AGENT_STARTED, AGENT_THINKING, encode
from broker.lifecycle import Lifecycle
from broker.replay import Follower
from gateway.frames import ws_text

OWNER = Owner("", "alice")
BODY = encode(
    event_type=AGENT_THINKING,
    user_id="alice",
    thread_id="thread",
    run_id="run",
    agent_name="bench",
    epoch_ms=1_700_000_000_000,
    payload={"thoughts": "x" * 130},
    seq=7,
)
HEADER = b":alice thread run 7 agent_thinking"
LIVE = b"1700000000001-5 1700000000000-9 " + HEADER + b"\n" + BODY
STORED = b"1700000000000-9 " + HEADER + b"\n" + BODY


def chain(count: int) -> list[Entry]:
    """Linked entries, as a log has them."""
    prev, entries = b"0-0", []
    for index in range(1, count + 1):
        entries.append(from_log(b"%d-0" % index, prev + b" " + HEADER + b"\n" + BODY))
        prev = b"%d-0" % index
    return entries


def bench_encode_event(benchmark: BenchmarkFixture) -> None:
    benchmark(
        encode,
        event_type=AGENT_THINKING,
        user_id="alice",
        thread_id="thread",
        run_id="run",
        agent_name="bench",
        epoch_ms=1_700_000_000_000,
        payload={"thoughts": "x" * 130},
        seq=7,
    )


def bench_split_live_header(benchmark: BenchmarkFixture) -> None:
    assert benchmark(from_live, LIVE).seq == b"7"


def bench_split_stored_header(benchmark: BenchmarkFixture) -> None:
    assert benchmark(from_log, b"1700000000001-5", STORED).seq == b"7"


def bench_join_id_and_frame(benchmark: BenchmarkFixture) -> None:
    entry = from_live(LIVE)
    assert len(benchmark(lambda: ws_text(entry.text()))) > len(BODY)


def bench_parse_cursor(benchmark: BenchmarkFixture) -> None:
    assert benchmark(cursor.parse, "1700000000001-5").ms == 1_700_000_000_001


def bench_name_channel(benchmark: BenchmarkFixture) -> None:
    keys = Keys()
    benchmark(keys.channel, OWNER, Scope.THREAD, "thread")


def bench_hear_100_in_order(benchmark: BenchmarkFixture) -> None:
    entries = chain(100)

    def hear() -> None:
        follower = Follower(ZERO, level=True)
        assert all(map(follower.hear, entries))

    benchmark(hear)


def bench_merge_100_read_with_50_heard(benchmark: BenchmarkFixture) -> None:
    """A resume: half of the page was heard live while it was read, and more after it."""
    entries = chain(150)

    def merge() -> None:
        follower = Follower(ZERO)
        for entry in entries[100:]:
            follower.hear(entry)
        assert len(follower.read(entries[:100], end=True).entries) == 150

    benchmark(merge)


def bench_advance_lifecycle(benchmark: BenchmarkFixture) -> None:
    lifecycle = Lifecycle()
    lifecycle.advance(AGENT_STARTED, {})
    benchmark(lifecycle.advance, AGENT_THINKING, {"thoughts": "x"})
