"""Tokens around a valid one: signed rubbish, unsigned claims, flawed texts; and the verdicts."""

import base64
import hashlib
import hmac
import json
import math
import time
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

from tests.support.fuzz_frames import is_id
from tests.support.servers import SECRET

USER: Final = "fuzz-token"
LATEST_TIME: Final = 253_402_300_799
MAX_TOKEN_BYTES: Final = 8192
MAX_AGE_SECONDS: Final = 2592000
HASHES: Final = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}

OPEN, REFUSED, FORBIDDEN = 101, 401, 403


@dataclass(frozen=True)
class Token:
    """``statuses``: of a main connection that brings it."""

    what: str
    text: str
    statuses: frozenset[int]
    operator: bool = False

    @property
    def valid(self) -> bool:
        return REFUSED not in self.statuses


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: bytes, payload: bytes, *, key: str = SECRET, alg: str = "HS256") -> str:
    """The compact form, signed with one of the HMACs whatever the header says."""
    text = f"{b64(header)}.{b64(payload)}"
    return f"{text}.{b64(hmac.new(key.encode(), text.encode(), HASHES[alg]).digest())}"


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"sub": USER, "iat": now, "exp": now + 600, "jti": "j1", **more}


HEADER: Final = dumped({"alg": "HS256", "typ": "JWT"})


def _time_of(value: object) -> float | None:
    """A NumericDate, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or not 0 <= value <= LATEST_TIME:
        return None
    return float(value)


def _timely(expires: float, issued: object, now: float) -> bool:
    """Issued before now, if that is said, and not valid for too long."""
    since = now if issued is None else _time_of(issued)
    return since is not None and since <= now and expires - since <= MAX_AGE_SECONDS


def status_of(told: dict[str, Any]) -> int:
    """Protocol section 5, for a token whose signature is right."""
    now = time.time()
    expires = _time_of(told.get("exp"))
    before = told.get("nbf")
    modes = told.get("modes")
    bad = (
        not is_id(told.get("sub"))
        or expires is None
        or expires <= now
        or (before is not None and (_time_of(before) is None or float(before) > now))
        or not _timely(expires, told.get("iat"), now)
        or any(told.get(name) is not None and not is_id(told[name]) for name in ("tenant", "jti"))
        or (
            modes is not None
            and not (isinstance(modes, list) and all(isinstance(each, str) for each in modes))
        )
    )
    if bad:
        return REFUSED
    if told.get("role") == "operator":
        return FORBIDDEN  # it opens no chat
    return OPEN if modes is None or "main" in modes else FORBIDDEN


_text = st.text(st.characters(codec="utf-8"), max_size=10)
_odd: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([2**63, 2**64, 10**12, 10**30, 1e300, -1, 0.5, -0.0]),
    st.sampled_from(
        ["", " ", "x" * 256, "x" * 257, "a\x00b", "admin", "*", "é", "\u202e", "1e9", "%00"]
    ),
    _text,
    st.lists(st.one_of(_text, st.integers(0, 3), st.none()), max_size=3),
    st.dictionaries(_text, st.integers(0, 3), max_size=2),
    st.just([[[[{}]]]]),
)
_now_or_so = st.builds(
    lambda seconds: int(time.time()) + seconds,
    st.sampled_from([-(10**9), -3600, -30, 60, 3600, 10**9, 10**12]),
)
_modes = st.sampled_from(
    [
        ["main"],
        [],
        ["factory"],
        ["main", "x"],
        "main",
        {"main": 1},
        ["MAIN"],
        [None],
        ["main", 1],
        None,
    ]
)
_names = st.sampled_from(
    ["sub", "exp", "nbf", "iat", "aud", "iss", "tenant", "modes", "role", "jti", "typ", "x"]
)


@st.composite
def _rightly_signed(draw: st.DrawFn) -> Token:
    told = claims()
    for name in draw(st.lists(_names, min_size=1, max_size=3)):
        if not draw(st.integers(0, 4)):
            told.pop(name, None)
        elif name in ("exp", "nbf", "iat") and draw(st.booleans()):
            told[name] = draw(_now_or_so)
        elif name == "modes" and draw(st.booleans()):
            told[name] = draw(_modes)
        elif name == "role" and draw(st.booleans()):
            told[name] = draw(st.sampled_from(["operator", "Operator", ["operator"], "user"]))
        else:
            told[name] = draw(_odd)
    alg = draw(st.sampled_from([*HASHES]))
    text = signed(dumped({"alg": alg}), dumped(told), alg=alg)
    status = status_of(told)
    # How an algorithm other than the first is configured is not this test's to say.
    statuses = frozenset({status} if alg == "HS256" else {status, REFUSED})
    return Token("claims", text, statuses, told.get("role") == "operator")


@st.composite
def _one_claim(draw: st.DrawFn) -> Token:
    """A token that is right but for one claim, if that."""
    name = draw(_names)
    value = draw(_now_or_so if name in ("exp", "nbf", "iat") else _odd)
    if name == "modes":
        value = draw(_modes)
    told = claims(**{name: value})
    return Token("one claim", signed(HEADER, dumped(told)), frozenset({status_of(told)}))


def _refused(what: str, text: str) -> Token:
    return Token(what, text, frozenset({REFUSED}))


def _payload_text(text: str) -> Token:
    return _refused("payload", signed(HEADER, text.encode("utf-8", "surrogatepass")))


_payloads = st.one_of(
    st.sampled_from(
        [
            "",
            "null",
            "[]",
            "1",
            '"x"',
            "{",
            "{}",
            "{}{}",
            "NaN",
            "[" * 2500,
            '{"sub":' * 400,
            "\ufeff{}",
            "\ud800",
            f'{{"sub":"{USER}","exp":NaN}}',
            f'{{"sub":"{USER}","exp":Infinity}}',
            f'{{"sub":"{USER}","exp":1e999}}',
            f'{{"sub":"\\ud800","exp":{LATEST_TIME}}}',
            f'{{"sub":"{USER}","exp":"{LATEST_TIME}"}}',
            f'{{"sub":"{USER}","exp":{LATEST_TIME},"sub":7}}',
            f'{{"sub":"{USER}","exp":{LATEST_TIME},"exp":1}}',
            f'{{"sub":"{USER}","exp":{"9" * 400}}}',
            f'{{"sub":"{USER}","exp":{LATEST_TIME},"x":"{"y" * 9000}"}}',
        ]
    ).map(_payload_text),
    st.binary(max_size=40).map(lambda data: _refused("payload", signed(HEADER, data))),
)

_algs: st.SearchStrategy[Any] = st.sampled_from(
    [
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        "HS1",
        "HS256 ",
        "hs256",
        "RS256",
        "ES256",
        "EdDSA",
        "PS256",
        "dir",
        None,
        ["HS256"],
        {"HS256": 1},
        256,
        True,
        "A" * 3000,
    ]
)


@st.composite
def _other_headers(draw: st.DrawFn) -> Token:
    """An algorithm that is not allowed, with the right key, none, or a wrong one."""
    header = {"alg": draw(_algs), "typ": draw(st.sampled_from(["JWT", 1, None, "at+jwt"]))}
    if draw(st.booleans()):
        header["jwk"] = {"kty": "oct", "k": b64(b"")}
    text = signed(dumped(header), dumped(claims()), key=draw(st.sampled_from([SECRET, "", "x"])))
    if draw(st.booleans()):
        text = text.rpartition(".")[0] + "."
    return _refused("header", text)


_broken_headers = st.one_of(
    st.sampled_from(
        [
            "",
            "null",
            "[]",
            "1",
            "{",
            "[" * 2500,
            '{"a":' * 900,
            "{}",
            '{"alg":1e999}',
            "\ud800",
            '{"alg":"HS256","alg":"none"}',
            '{"alg":"HS256","crit":["x"],"x":1}',
            '{"alg":"HS256","kid":7}',
        ]
    ).map(
        lambda text: _refused(
            "broken header", signed(text.encode("utf-8", "surrogatepass"), dumped(claims()))
        )
    ),
    st.binary(max_size=30).map(
        lambda data: _refused("broken header", signed(data, dumped(claims())))
    ),
)


@st.composite
def _wrong_key(draw: st.DrawFn) -> Token:
    key = draw(st.sampled_from(["", "x", SECRET + " ", SECRET[:-1], SECRET.upper(), SECRET[::-1]]))
    alg = draw(st.sampled_from([*HASHES]))
    return _refused("key", signed(dumped({"alg": alg}), dumped(claims()), key=key, alg=alg))


def judged_text(original: str, text: str) -> Token:
    """A text made from a valid token: valid only when it is the same, to the letter."""
    if text.strip() == original:
        return Token("text", text, frozenset({OPEN} if text == original else {OPEN, REFUSED}))
    return _refused("text", text)


@st.composite
def _mangled(draw: st.DrawFn) -> Token:
    original = signed(HEADER, dumped(claims()))
    text = original
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 7)):
            case 0:
                text = text[:at]
            case 1:
                text = (
                    text[:at]
                    + draw(st.sampled_from([*"AZaz09-_.=+/ %,é\x00\n\udc80"]))
                    + text[at + 1 :]
                )
            case 2:
                text = (
                    text[:at]
                    + draw(st.sampled_from([".", "=", "A", "..", "x" * 9000, "é"]))
                    + text[at:]
                )
            case 3:
                text = ".".join(reversed(text.split(".")))
            case 4:
                text = draw(
                    st.sampled_from(["", " ", ".", "..", "...", "Bearer " + text, text + text])
                )
            case 5:
                text = text.swapcase()
            case 6:
                other = signed(HEADER, dumped(claims(sub="x")), key="x").split(".")
                parts = text.split(".")
                which = draw(st.integers(0, len(parts) - 1))
                parts[which] = other[min(which, 2)]
                text = ".".join(parts)
            case 7:
                text = text[: max(0, at - draw(st.integers(1, 5)))] + text[at:]
    return judged_text(original, text)


tokens: st.SearchStrategy[Token] = st.one_of(
    _rightly_signed(),
    _one_claim(),
    _one_claim(),
    _payloads,
    _other_headers(),
    _broken_headers,
    _wrong_key(),
    _mangled(),
    _mangled(),
)
"""Tokens of every kind, most of them bad."""
