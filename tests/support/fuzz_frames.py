"""Client frames from rubbish to nearly right, and what protocol section 6 says is the answer."""

import json
import math
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from hypothesis import strategies as st

MAX_MESSAGE_BYTES: Final = 65536
NULL: Final = frozenset({"bad_json", "bad_frame", "unknown_type", "message_too_large"})
REFUSALS: Final = frozenset(
    {"unknown_agent", "run_not_found", "not_allowed", "rate_limited", "queue_full"}
)
LEGACY: Final = {
    "user_message": ("content", "text", "message"),
    "chat": ("content", "text", "message"),
    "start_agent": ("query", "content", "message"),
    "agent_request": ("message", "content", "query"),
}
REPLIES: Final = {
    "user_message": "run_accepted",
    "stop_agent": "ok",
    "user_input": "ok",
    "attach": "ok",
    "detach": "ok",
    "auth_refresh": "ok",
    "ping": "pong",
}
DEEPEST_READ: Final = 1000
DEEPEST_WRITTEN: Final = 100
"""Between the two an answer may be either: JSON libraries differ."""

_numbers = count()


@dataclass(frozen=True)
class Expected:
    """``ref``: whose reply it is, None = an error that names no frame. ``types``: of the reply, or
    error codes. ``silent``: nothing at all is right too."""

    ref: str | None
    types: frozenset[str]
    silent: bool = False


@dataclass(frozen=True)
class Frame:
    """A message as sent: text, or bytes for a binary one."""

    data: str | bytes


class Surrogate(Exception):
    """JSON with an escape that is no Unicode character."""


def _refuse_constant(_name: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError("no double is as large as that")
    return value


def _whole(number: str) -> int:
    _finite(number)
    return int(number)


def _checked(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Surrogate from None
    elif isinstance(value, list):
        for each in value:
            _checked(each)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, value in pairs:
        _checked(name)
        _checked(value)
    return dict(pairs)


def depth(text: str) -> int:
    """The deepest nesting; brackets in strings are counted too, which makes it an upper bound."""
    deepest = now = 0
    for each in text:
        if each in "[{":
            now += 1
            deepest = max(deepest, now)
        elif each in "]}":
            now -= 1
    return deepest


def is_id(value: object) -> bool:
    return (
        isinstance(value, str)
        and 1 <= len(value.encode()) <= 256
        and not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in value)
    )


def expected(sent: Frame, mode: str) -> Expected:
    """What the answer has to be."""
    data = sent.data
    if isinstance(data, bytes):
        return Expected(None, frozenset({"bad_frame"}))
    too_large = len(data.encode()) > MAX_MESSAGE_BYTES
    try:
        parsed = _parsed(data)
    except (ValueError, Surrogate):
        return Expected(None, frozenset({"message_too_large" if too_large else "bad_json"}))
    ref = parsed.get("id") if isinstance(parsed, dict) else None
    if too_large:
        return Expected(ref if is_id(ref) else None, frozenset({"message_too_large"}))
    if not isinstance(parsed, dict) or (ref is not None and not is_id(ref)):
        return Expected(None, frozenset({"bad_frame"}))
    return _answer(parsed, ref, mode, deep=depth(data) > DEEPEST_WRITTEN)


def _parsed(data: str) -> Any:
    if depth(data) > DEEPEST_READ:
        raise ValueError("nested too deeply")
    value = json.loads(
        data,
        parse_constant=_refuse_constant,
        parse_float=_finite,
        parse_int=_whole,
        object_pairs_hook=_object,
    )
    return _checked(value)


def _answer(parsed: dict[str, Any], ref: str | None, mode: str, *, deep: bool) -> Expected:
    kind, payload = parsed.get("type"), parsed.get("payload", {})
    if not isinstance(kind, str) or not isinstance(payload, dict):
        return Expected(ref, frozenset({"bad_frame"}))
    if mode == "legacy" and kind in LEGACY:
        fields = {**parsed, **payload}
        content = next((fields[name] for name in LEGACY[kind] if fields.get(name)), None)
        payload = {**fields, "content": content} if content is not None else {}
        kind = "user_message"
    if kind not in REPLIES:
        return Expected(ref, frozenset({"unknown_type"}))
    if not _valid(kind, payload):
        return Expected(ref, frozenset({"bad_frame"}))
    types = {REPLIES[kind], *(() if kind == "ping" else REFUSALS)}
    if deep:
        types.add("bad_frame")
    return Expected(ref, frozenset(types), silent=ref is None)


def _valid(kind: str, payload: dict[str, Any]) -> bool:
    if kind == "ping":
        return True
    if kind == "auth_refresh":
        return isinstance(payload.get("token"), str)
    if kind == "user_message":
        content = payload.get("content")
        metadata = payload.get("metadata")
        return (
            isinstance(content, str | dict)
            and bool(content)
            and (metadata is None or isinstance(metadata, dict))
            and all(
                payload.get(name) is None or is_id(payload[name]) for name in ("thread_id", "agent")
            )
        )
    if kind == "user_input":
        return (
            is_id(payload.get("run_id"))
            and is_id(payload.get("request_id"))
            and ("content" in payload)
        )
    return is_id(payload.get("run_id"))


# --- strategies

_text = st.text(st.characters(codec="utf-8"), max_size=12)
_odd_text = st.sampled_from(
    [
        "",
        " ",
        "\x00",
        "a\nb",
        "\u202e",
        "\ud800",
        "x" * 257,
        "é" * 128,
        "é" * 129,
        "0-0",
        "a:b",
        "%00",
        "../..",
        "é\u0301",
        "\U0001f600" * 64,
        "\U0001f600" * 65,
        "\x85",
        "-",
        "*",
        "{1}",
    ]
)
_number = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**30, 1.5, -0.0, 1e300, 5e-324]),
    st.floats(allow_nan=True, allow_infinity=True, width=16),
)
_leaf = st.one_of(st.none(), st.booleans(), _number, _text, _odd_text)
_value = st.one_of(
    _leaf,
    st.lists(_leaf, max_size=3),
    st.dictionaries(_text, _leaf, max_size=3),
)


def _nested(levels: int, *, of: str) -> str:
    return "[" * levels + of + "]" * levels


_deep = st.builds(
    lambda levels, kind: (
        f'{{"type":"{kind}","id":"d{next(_numbers)}","payload":{{"run_id":"r","token":"t",'
        f'"request_id":"q","agent":"five","content":{{"a":{_nested(levels, of="1")}}}}}}}'
    ),
    st.sampled_from([3, 100, 180, 240, 252, 253, 254, 255, 256, 300, 500, 900, 1200, 20_000]),
    st.sampled_from([*REPLIES]),
)

_field = st.sampled_from(
    [
        "content",
        "thread_id",
        "agent",
        "metadata",
        "run_id",
        "request_id",
        "after",
        "token",
        "query",
        "message",
        "text",
        "x",
    ]
)
_good_field: dict[str, st.SearchStrategy[Any]] = {
    "content": st.one_of(_text.filter(bool), st.just({"a": 1})),
    "thread_id": st.sampled_from(["t1", "é", "a:b"]),
    "agent": st.sampled_from(["nobody", "lazy", "nobody", "\u00e4", "a b"]),
    "metadata": st.dictionaries(_text, _leaf, max_size=2),
    "run_id": st.sampled_from(["r1", "01J", "%41", "a:b"]),
    "request_id": st.just("q"),
    "after": st.sampled_from(
        ["0-0", "1-1", "99999999999999-0", "x", "1-", "18446744073709551616-0"]
    ),
    "token": st.sampled_from(["", "x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."]),
    "query": _text,
    "message": _text,
    "text": _text,
    "x": _leaf,
}
_kind = st.sampled_from(
    [*REPLIES, *LEGACY, "agent_started", "connection_established", "ok", "error"]
)


_FIELDS_OF: Final = {
    "user_message": ("content", "agent"),
    "stop_agent": ("run_id",),
    "user_input": ("run_id", "request_id", "content"),
    "attach": ("run_id", "after"),
    "detach": ("run_id",),
    "auth_refresh": ("token",),
}


def _encoded(fields: dict[str, Any], repeated: list[tuple[str, Any]], *, escaped: bool) -> str:
    pairs = [*fields.items(), *repeated]
    text = ",".join(f"{_json(name, escaped)}:{_json(value, escaped)}" for name, value in pairs)
    return f"{{{text}}}"


def _json(value: Any, escaped: bool) -> str:  # noqa: FBT001 - a private one's own
    try:
        text = json.dumps(value, ensure_ascii=escaped)
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


@st.composite
def _near_valid(draw: st.DrawFn) -> Frame:
    """A known type with fields that are right, missing, wrong, repeated, or too many."""
    kind = draw(_kind)
    names = draw(st.lists(_field, max_size=4, unique=True))
    if draw(st.booleans()):
        names = list(dict.fromkeys([*_FIELDS_OF.get(kind, ()), *names]))
    odd = draw(st.sampled_from([None, *names]))
    payload = {name: draw(_value if name == odd else _good_field[name]) for name in names}
    fields: dict[str, Any] = {"type": kind}
    if draw(st.integers(0, 9)):
        fields["id"] = f"r{next(_numbers)}"
    fields["payload"] = payload
    repeated: list[tuple[str, Any]] = []
    match draw(st.integers(0, 11)):
        case 0:
            fields[draw(st.sampled_from(["type", "id", "payload"]))] = draw(_value)
        case 1:
            fields.pop(draw(st.sampled_from(["type", "payload"])))
        case 2:
            repeated = [(draw(st.sampled_from(["type", "id", "payload"])), draw(_value))]
        case 3:
            fields.update(payload)
        case 4:
            fields["payload"] = {
                **payload,
                draw(_field): "x" * draw(st.sampled_from([60000, 70000])),
            }
    return Frame(_encoded(fields, repeated, escaped=draw(st.booleans())))


@st.composite
def _one_odd_field(draw: st.DrawFn) -> Frame:
    """A frame that is right but for the value of one field."""
    kind = draw(st.sampled_from([*_FIELDS_OF]))
    payload = {name: draw(_good_field[name]) for name in _FIELDS_OF[kind]}
    payload[draw(st.sampled_from([*payload]))] = draw(_value)
    fields = {"type": kind, "id": f"o{next(_numbers)}", "payload": payload}
    return Frame(_encoded(fields, [], escaped=draw(st.booleans())))


def _cut(text: str, at: int, what: str) -> str:
    at %= len(text) + 1
    return text[:at] + what + text[at:] if what else text[:at]


frames: st.SearchStrategy[Frame] = st.one_of(
    _near_valid(),
    _near_valid(),
    _one_odd_field(),
    _one_odd_field(),
    st.builds(Frame, _text),
    st.builds(Frame, st.binary(max_size=20)),
    st.builds(lambda value: Frame(_json(value, True)), _value),  # noqa: FBT003
    st.builds(Frame, _deep),
    st.builds(
        lambda frame, at, what: Frame(_cut(str(frame.data), at, what)),
        _near_valid(),
        st.integers(0, 400),
        st.sampled_from(["", "\x00", '"', "{", "}", "\\", "\\ud800", "\ufeff", ",", "1e999", "//"]),
    ),
)
"""Frames of every shape; nearly right ones most often."""
