"""A token that was changed anywhere, in any way, is refused: for each kind of key, and for sets."""

from __future__ import annotations

import base64
import json
import string
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.utils import der_to_raw_signature, raw_to_der_signature

from broker.config import Settings
from gateway.auth import Verifier
from gateway.credentials import AuthError
from gateway.key_source import FixedKeys
from gateway.keys import KINDS, Key, KeySet, public_key, secret_key
from tests.support.keys import EC_KEY, SIGNERS, b64, signed

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOW = 1_795_000_000.0
CLAIMS: Final = {"sub": "alice", "iat": NOW, "exp": NOW + 60, "jti": "j1"}
ALL = tuple(name for names in KINDS.values() for name in names)
LETTERS: Final = string.ascii_letters + string.digits + "-_"
CONFUSABLE: Final = {"a": "\u0430", "e": "\u0435", "o": "\u043e", "-": "\u2010", ".": "\u2024"}


def key(kid: str | None, alg: str) -> Key:
    if alg == "HS256":
        return secret_key(kid, SIGNERS[alg], ALL)
    return public_key(kid, SIGNERS[alg].public_key(), ALL)


GATES: Final = {
    **{alg: Verifier(Settings(), source=FixedKeys(KeySet([key(None, alg)]))) for alg in SIGNERS},
    "set": Verifier(
        Settings(),
        source=FixedKeys(KeySet([key(alg, alg) for alg in SIGNERS if alg != "PS256"])),
    ),
}
"""One for each kind of key, and one with a key of each kind, by name."""

TOKENS: Final = {
    (gate, alg): signed(CLAIMS, alg if gate == "set" else None, alg=alg)
    for gate in GATES
    for alg in SIGNERS
    if gate == alg or (gate == "set" and alg != "PS256")
}


def accepted(gate: str, token: str) -> bool:
    """Whether it is, by a gateway that has seen no other token."""
    GATES[gate].forget(lambda _: True)
    try:
        GATES[gate].verify(token, NOW)
    except AuthError:
        return False
    return True


cases = st.sampled_from(sorted(TOKENS))


@pytest.mark.parametrize("case", TOKENS, ids="-".join)
def test_the_original_is_accepted(case: tuple[str, str]) -> None:
    assert accepted(case[0], TOKENS[case])


@pytest.mark.parametrize("case", TOKENS, ids="-".join)
def test_no_character_can_be_another_one(case: tuple[str, str]) -> None:
    """At every place: the next letter, another case, one left out, one twice, one of elsewhere."""
    token = TOKENS[case]
    for at, each in enumerate(token):
        others = {CONFUSABLE.get(each, "\u0430"), each.swapcase(), "", each * 2, "=", " ", "\x00"}
        if each in LETTERS:
            number = LETTERS.index(each)
            others |= {LETTERS[number ^ bit] for bit in (1, 2, 32) if number ^ bit < len(LETTERS)}
        for other in others - {each}:
            changed = token[:at] + other + token[at + 1 :]
            assert not accepted(case[0], changed), (at, each, other)


@relaxed
@given(cases, st.data())
def test_edits(case: tuple[str, str], data: st.DataObject) -> None:
    """Any few insertions, deletions and replacements."""
    text = token = TOKENS[case]
    for _ in range(data.draw(st.integers(1, 4))):
        at, until = sorted(data.draw(st.integers(0, len(text))) for _ in range(2))
        put = data.draw(st.text(LETTERS + ".= +/\n", max_size=4))
        text = text[:at] + put + text[min(until, at + 4) :]
    assert accepted(case[0], text) is (text == token)


@relaxed
@given(cases, cases, st.permutations(range(3)), st.permutations(range(3)))
def test_segments_of_two_tokens(
    case: tuple[str, str], other: tuple[str, str], mine: list[int], theirs: list[int]
) -> None:
    first, second = TOKENS[case].split("."), TOKENS[other].split(".")
    for at in range(3):
        mixed = [first[n] for n in mine]
        mixed[at] = second[theirs[at]]
        text = ".".join(mixed)
        assert not accepted(case[0], text) or text == TOKENS[case] or text == TOKENS[other]


_ways = st.sampled_from(["padded", "standard", "spaced", "broken", "unused bits"])


@relaxed
@given(cases, st.integers(0, 2), _ways)
def test_the_same_bytes_in_another_spelling(case: tuple[str, str], segment: int, way: str) -> None:
    """What a lenient decoder would read as the same: it is another text, and not the token."""
    parts = TOKENS[case].split(".")
    part = parts[segment]
    raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    last = LETTERS_IN_ORDER[LETTERS_IN_ORDER.index(part[-1]) | (3 if len(part) % 4 == 3 else 15)]
    parts[segment] = {
        "padded": base64.urlsafe_b64encode(raw).decode() + ("" if len(raw) % 3 else "===="),
        "standard": base64.b64encode(raw).decode(),
        "spaced": part[:4] + " " + part[4:],
        "broken": part[:4] + "\r\n" + part[4:],
        "unused bits": part[:-1] + last,
    }[way]
    text = ".".join(parts)
    assert accepted(case[0], text) is (text == TOKENS[case])


LETTERS_IN_ORDER: Final = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"

_json_edits = st.sampled_from(
    [
        lambda text: text.replace('"sub":"alice"', '"sub":"alice","sub":"bob"'),
        lambda text: text.replace('"sub":"alice"', '"sub":"bob","sub":"alice"'),
        lambda text: text.replace('"alg":', '"alg":"none","alg":'),
        lambda text: text[:-1] + ',"alg":"none"}',
        lambda text: text[:-1] + ',"exp":9999999999}',
        lambda text: text.replace("alice", "\\u0061lice"),
        lambda text: text.replace("alice", "\u0430lice"),
        lambda text: text.replace(":", " : "),
        lambda text: text + " ",
        lambda text: "\ufeff" + text,
        lambda text: json.dumps(dict(reversed(json.loads(text).items()))),
    ]
)


@relaxed
@given(cases, st.integers(0, 1), _json_edits)
def test_the_same_json_or_more_of_it(case: tuple[str, str], segment: int, edit: Any) -> None:
    """Names twice, other escapes, other letters that look the same, other order and space."""
    parts = TOKENS[case].split(".")
    text = base64.urlsafe_b64decode(parts[segment] + "=" * (-len(parts[segment]) % 4)).decode()
    parts[segment] = b64(edit(text).encode())
    changed = ".".join(parts)
    assert accepted(case[0], changed) is (changed == TOKENS[case])


P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def test_the_other_signature_of_ecdsa_is_the_same_token() -> None:
    """With (r, s) also (r, n - s) is a signature of the same text: it says nothing else.

    So an ECDSA token can be respelled by whoever has it; its hash changes and its ``jti`` does not.
    """
    text, _, spelled = TOKENS["ES256", "ES256"].rpartition(".")
    raw = base64.urlsafe_b64decode(spelled + "==")
    r, s = decode_dss_signature(raw_to_der_signature(raw, EC_KEY.curve))
    other = der_to_raw_signature(encode_dss_signature(r, P256_ORDER - s), EC_KEY.curve)
    again = f"{text}.{b64(other)}"
    assert again != TOKENS["ES256", "ES256"]
    first = GATES["ES256"].verify(TOKENS["ES256", "ES256"], NOW)
    second = GATES["ES256"].verify(again, NOW)
    assert (first.jti, first.owner, first.expires_at) == (
        second.jti,
        second.owner,
        second.expires_at,
    )
    assert first.token_hash != second.token_hash
