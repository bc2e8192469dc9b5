"""No two scopes meet in a key, whatever the ids contain (promise G4, protocol sections 4 and 8)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.channels import (
    MAX_ID_BYTES,
    SCOPES,
    Channel,
    Keys,
    Level,
    Mode,
    Owner,
    Scope,
    check_id,
    decode_id,
    encode_id,
)

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NASTY = st.sampled_from([*":{}% *?[]\\^-._~/+&=\"'%3A%7Bé\u2028\U0001f642", "%3A", "a", "b"])
IDS = st.one_of(
    st.lists(NASTY, min_size=1, max_size=6).map("".join),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=10),
)
OWNERS = st.builds(Owner, IDS | st.just(""), IDS)
MODES = st.sampled_from(sorted(SCOPES, key=str))
KEYS = st.builds(
    Keys, prefix=st.sampled_from(["rc", "app"]), partitions=st.sampled_from([1, 4, 128])
)


def made(keys: Keys, owner: Owner, scope: Scope, names: dict[Scope, str]) -> Channel:
    return keys.channel(owner, scope, names.get(scope, ""))


@st.composite
def seats(draw: st.DrawFn) -> tuple[Owner, tuple[Mode, Level | None], dict[Scope, str]]:
    """One connection's place: owner, mode and level, thread, run and connection."""
    names = {scope: draw(IDS) for scope in (Scope.THREAD, Scope.RUN, Scope.CONNECTION)}
    return draw(OWNERS), draw(MODES), names


@settings(relaxed, max_examples=250)
@given(keys=KEYS, one=seats(), other=seats(), share=st.sets(st.integers(0, 4)))
def test_two_seats_share_a_channel_exactly_when_they_share_owner_scope_and_its_id(
    keys: Keys,
    one: tuple[Owner, tuple[Mode, Level | None], dict[Scope, str]],
    other: tuple[Owner, tuple[Mode, Level | None], dict[Scope, str]],
    share: set[int],
) -> None:
    """Any two (tenant, user, mode, level, thread, run, connection): one channel or no key."""
    (owner, mode, names), (owner2, mode2, names2) = one, other
    owner2 = Owner(
        owner.tenant if 0 in share else owner2.tenant, owner.user if 1 in share else owner2.user
    )
    mode2 = mode if 2 in share else mode2
    names2 = names if 3 in share else names2
    if 4 in share:  # the same id where the scopes differ
        names2 = dict.fromkeys(names2, names.get(SCOPES[mode], "x"))
    scope, scope2 = SCOPES[mode], SCOPES[mode2]
    first, second = made(keys, owner, scope, names), made(keys, owner2, scope2, names2)
    same = (owner, scope, names.get(scope)) == (owner2, scope2, names2.get(scope2))
    keys1, keys2 = ({c.log, c.live, c.open} for c in (first, second))
    assert keys1 == keys2 if same else not keys1 & keys2
    assert len(keys1) == 3


def test_separators_in_ids_cannot_move_a_border() -> None:
    """``a:b`` + ``c`` is not ``a`` + ``b:c``."""
    keys = Keys()
    pairs = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("", "a:b:c"), ("a:b:c", "")]
    for kind in (keys.message, keys.thread, keys.connection):
        made = {kind(Owner(tenant, "u"), name) for tenant, name in pairs if name}
        assert len(made) == sum(1 for _, name in pairs if name)
    channels = {keys.channel(Owner(tenant, user), Scope.USER).log for tenant, user in pairs if user}
    assert len(channels) == 4


def named(keys: Keys, owner: Owner, name: str) -> dict[str, bytes]:
    """Every key that one id can name."""
    partition = keys.partition(owner)
    channels = {
        f"{scope} {field}": getattr(keys.channel(owner, scope, name), field)
        for scope in (Scope.THREAD, Scope.RUN, Scope.CONNECTION)
        for field in ("log", "live", "open")
    }
    user = keys.channel(owner, Scope.USER)
    return {
        **channels,
        "user log": user.log,
        "user live": user.live,
        "user open": user.open,
        "run": keys.run(partition, name),
        "text": keys.text(partition, name),
        "message": keys.message(owner, name),
        "thread": keys.thread(owner, name),
        "connection": keys.connection(owner, name),
        "leases": keys.leases(partition),
    }


@relaxed
@given(keys=KEYS, owner=OWNERS, name=IDS, other=IDS)
def test_two_kinds_of_key_never_meet(keys: Keys, owner: Owner, name: str, other: str) -> None:
    """Whatever two ids are: a run's hash is never a thread's list, a log never a text."""
    first, second = named(keys, owner, name), named(keys, owner, other)
    assert len(set(first.values())) == len(first)
    for kind, key in first.items():
        for kind2, key2 in second.items():
            same = kind == kind2 and (name == other or kind.startswith("user") or kind == "leases")
            assert (key == key2) == same


@relaxed
@given(owner=OWNERS, name=IDS, agent=IDS, node=IDS)
def test_the_installations_own_keys_are_nobodys(
    owner: Owner, name: str, agent: str, node: str
) -> None:
    """Queues, reports, notices: no id of a user reaches them, and they do not meet each other."""
    keys = Keys()
    own = [keys.requests(agent), keys.agents, keys.control(node), keys.sweeper, keys.nodes]
    own.append(keys.run_counts)
    assert len(set(own)) == len(own)
    assert not set(own) & set(named(keys, owner, name).values())


@relaxed
@given(keys=KEYS, owner=OWNERS, name=IDS)
def test_all_keys_of_an_owner_are_in_one_slot(keys: Keys, owner: Owner, name: str) -> None:
    """One script touches one slot: each key has exactly one hash tag, that of the partition."""
    tag = f"{{{keys.partition(owner)}}}".encode()
    for key in named(keys, owner, name).values():
        assert re.findall(rb"\{[^}]*\}", key) == [tag]
        assert key.startswith(f"{keys.prefix}:".encode() + tag)


@relaxed
@given(keys=KEYS, owner=OWNERS, name=IDS, agent=IDS)
def test_no_key_has_a_character_that_means_something_to_redis(
    keys: Keys, owner: Owner, name: str, agent: str
) -> None:
    """No glob, no space, nothing beyond ASCII: an id cannot be read as a pattern."""
    for key in [*named(keys, owner, name).values(), keys.requests(agent), keys.control(name)]:
        assert re.fullmatch(rb"[A-Za-z0-9_.~%:{}-]+", key)


@relaxed
@given(OWNERS)
def test_owner_and_token_round_trip(owner: Owner) -> None:
    """The word in an event's header says who owns it, without doubt."""
    assert Owner.from_token(owner.token) == owner
    assert owner.token.count(":") == 1
    assert " " not in owner.token


@relaxed
@given(OWNERS, OWNERS)
def test_two_owners_never_have_one_token(one: Owner, other: Owner) -> None:
    """G4 compares tokens."""
    assert (one.token == other.token) == (one == other)


@relaxed
@given(OWNERS, st.integers(1, 1000))
def test_a_partition_is_one_of_those_there_are(owner: Owner, partitions: int) -> None:
    """And the same in every process: it is written into keys."""
    keys = Keys(partitions=partitions)
    assert 0 <= keys.partition(owner) < partitions
    assert keys.partition(Owner(*owner)) == Keys("other", partitions).partition(owner)


def test_partitions_and_keys_stay_where_they_are() -> None:
    """Known values: changing them would lose what an installation has stored."""
    keys, alice = Keys(), Owner("", "alice")
    assert keys.partition(alice) == 50
    assert keys.partition(Owner("acme", "alice")) == 96
    channel = keys.channel(alice, Scope.THREAD, "t 1")
    assert channel.log == b"rc:{50}:log:thread::alice:t%201"
    assert channel.live == b"rc:{50}:live:thread::alice:t%201"
    assert channel.open == b"rc:{50}:open:thread::alice:t%201"
    assert (channel.owner, channel.scope, channel.name) == (alice, Scope.THREAD, "t 1")
    assert keys.channel(alice, Scope.USER).log == b"rc:{50}:log:user::alice"
    assert keys.leases(50) == b"rc:{50}:leases"
    assert keys.run(50, "r") == b"rc:{50}:run:r"
    assert keys.text(50, "r") == b"rc:{50}:text:r"
    assert keys.requests("a") == b"rc:{queue}:requests:a"


@pytest.mark.parametrize("scope", [Scope.THREAD, Scope.RUN, Scope.CONNECTION])
def test_a_scope_that_needs_a_name_gets_one(scope: Scope) -> None:
    """An empty id never widens a scope."""
    with pytest.raises(ValueError, match=f"named by its {scope} id"):
        Keys().channel(Owner("", "u"), scope)
    with pytest.raises(ValueError, match="a user's by nothing"):
        Keys().channel(Owner("", "u"), Scope.USER, "x")


def test_every_mode_and_level_has_its_scope_and_no_other_pair_has() -> None:
    """Protocol section 4: what is not in the table does not exist."""
    assert SCOPES == {
        (Mode.MAIN, None): Scope.USER,
        (Mode.FACTORY, Level.STANDARD): Scope.THREAD,
        (Mode.FACTORY, Level.STRICT): Scope.RUN,
        (Mode.ISOLATED, None): Scope.CONNECTION,
        (Mode.LEGACY, None): Scope.USER,
    }


@relaxed
@given(IDS, IDS)
def test_encoding_is_one_to_one(one: str, other: str) -> None:
    """Two ids never become one word."""
    assert decode_id(encode_id(one)) == one
    assert (encode_id(one) == encode_id(other)) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]+", encode_id(one))


def refusal(text: str) -> str | None:
    """What the docstring of ``check_id`` says, said again."""
    if any(unicodedata.category(char) == "Cs" for char in text):
        return "valid Unicode"
    if not 1 <= len(text.encode()) <= MAX_ID_BYTES:
        return "1 to 256 bytes"
    if any(unicodedata.category(char) == "Cc" for char in text):
        return "control characters"
    return None


@relaxed
@given(
    st.text(max_size=12)
    | st.text(st.characters(codec=None), max_size=12)
    | st.text(st.characters(categories=["Cc", "Cs", "Cf", "Zs", "Lu"]), max_size=8)
    | st.text(st.sampled_from("aé€\U0001f642"), min_size=60, max_size=260)
)
def test_check_id_takes_exactly_what_it_says(text: str) -> None:
    """1 to 256 bytes of UTF-8 without control characters, returned as they are."""
    why = refusal(text)
    if why is None:
        assert check_id(text) == text
    else:
        with pytest.raises(ValueError, match=why):
            check_id(text)


@pytest.mark.parametrize("char", [*map(chr, range(32)), *map(chr, range(127, 160))])
def test_no_control_character_is_let_in(char: str) -> None:
    """Also not those of Latin-1 (U+0080 to U+009F), which were."""
    with pytest.raises(ValueError, match="control characters"):
        check_id(f"a{char}")


@pytest.mark.parametrize(
    "make", [lambda k, o, n: k.channel(o, Scope.THREAD, n).live, lambda k, o, n: k.message(o, n)]
)
def test_a_key_stays_under_two_and_a_half_kib(make: Callable[[Keys, Owner, str], bytes]) -> None:
    """Why ids are limited: the longest tenant, user and name together, each byte escaped."""
    longest = "\U0001f642" * (MAX_ID_BYTES // 4)
    assert check_id(longest)
    assert len(make(Keys(), Owner(longest, longest), longest)) < 2560
