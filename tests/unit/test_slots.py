"""Which node of a Cluster a command belongs to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.channels import Keys, Owner, Scope
from broker.redis.slots import SLOTS, Redirect, Server, SlotMap, key_of, redirect, slot_of

A, B = Server("a", 1), Server("b", 2)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", b"k"), b"k"),
        (("get", "k"), b"k"),
        ((b"HSET", b"k", "f", 1), b"k"),
        (("EVALSHA", "digest", 2, b"k1", b"k2", "argument"), b"k1"),
        (("EVAL", "source", 1, b"k"), b"k"),
        (("XGROUP", "CREATE", b"k", "g", "0"), b"k"),
        (("XREADGROUP", "GROUP", "streams", b"c", "COUNT", 3, "STREAMS", b"k", ">"), b"k"),
        (("SPUBLISH", b"channel", b"payload"), b"channel"),
        (("TIME",), None),
        (("PING",), None),
        ((b"INFO", b"server"), None),
        (("SCRIPT", "LOAD", b"x"), None),
    ],
)
def test_the_first_key_tells(command: tuple[bytes | str | int, ...], key: bytes | None) -> None:
    assert key_of(command) == key


names = st.text(min_size=1, max_size=20)


@given(names, names, names, st.integers(1, 4096))
def test_all_keys_of_a_user_are_in_one_slot(
    tenant: str, user: str, other: str, partitions: int
) -> None:
    keys, owner = Keys("rc", partitions), Owner(tenant, user)
    channel = keys.channel(owner, Scope.THREAD, other)
    partition = keys.partition(owner)
    all_of_them = [
        channel.log, channel.live, channel.open, keys.run(partition, other),
        keys.text(partition, other), keys.leases(partition), keys.message(owner, other),
        keys.thread(owner, other), keys.connection(owner, other), keys.turns(owner, other),
        keys.probe(other, partition),
    ]  # fmt: skip
    assert len({slot_of(key) for key in all_of_them}) == 1


def test_a_map_as_a_node_tells_it() -> None:
    reply = [
        [0, 99, [b"a", 1, b"id", []], [b"c", 3, b"id", []]],
        [100, SLOTS - 1, [b"", 2, b"id", []]],
    ]
    slots = SlotMap.told(reply, asked=Server("b", 9))
    assert slots.complete
    assert slots.servers == {A, B}
    assert (slots.server(0), slots.server(99), slots.server(100)) == (A, A, B)


def test_a_slot_that_nobody_serves_is_seen() -> None:
    slots = SlotMap.told([[0, 5, [None, 1, b"id"]]], asked=A)
    assert not slots.complete
    assert slots.server(5) == A
    assert slots.server(6) is None
    assert not SlotMap.nothing().complete


def test_a_moved_slot_changes_nothing_else() -> None:
    before = SlotMap([A] * SLOTS)
    after = before.with_moved(7, B)
    assert (before.server(7), after.server(7), after.server(8)) == (A, B, A)
    assert after.servers == {A, B}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("MOVED 12 b:2", Redirect(12, B, once=False)),
        ("ASK 12 b:2", Redirect(12, B, once=True)),
        ("MOVED 12 :2", Redirect(12, Server("a", 2), once=False)),
        ("MOVED 12 ::1:2", Redirect(12, Server("::1", 2), once=False)),
        ("CLUSTERDOWN Hash slot not served", None),
        ("ERR MOVED", None),
    ],
)
def test_what_a_node_says_of_another(text: str, meant: Redirect | None) -> None:
    assert redirect(text, A) == meant
