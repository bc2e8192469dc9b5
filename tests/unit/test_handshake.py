"""What a connection may ask for: each parameter has an effect or is refused, with what is valid."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.channels import SCOPES, Level, Mode, Scope
from broker.cursor import Cursor
from gateway.handshake import (
    CREDENTIALS,
    PARAMETERS,
    ROUTES,
    BadRequest,
    Opening,
    parse,
)

PROTOCOL = Path(__file__).parents[2] / "docs" / "reference" / "protocol.md"

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

VALUES = st.one_of(
    st.sampled_from([
        "main", "factory", "isolated", "legacy", "MAIN", "standard", "strict", "true", "false",
        "all", "lifecycle", "0-0", "5-1", "05-1", "", "a", "a b", "x" * 257, "\x00", "\ud800",
        "None",
    ]),
    st.text(max_size=6),
)  # fmt: skip
NAMES = st.sampled_from([*PARAMETERS, *CREDENTIALS]) | st.text(max_size=6)


def refused(query: dict[str, str], path: str = "/ws") -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(path, query)
    assert caught.value.status == 400
    return caught.value


def test_nothing_asked_for_is_main_from_now_on() -> None:
    """The defaults of protocol section 3."""
    assert parse("/ws", {}) == Opening(
        mode=Mode.MAIN, level=None, scope=Scope.USER, user_id=None, thread_id=None, after=None,
        bad_cursor=False, run_id=None, connection=None, secret=None, lifecycle_only=False,
    )  # fmt: skip


def test_all_that_can_be_asked_for() -> None:
    """Every parameter lands in its field."""
    main = parse(
        "/ws",
        {"mode": "main", "user_id": "u", "thread_id": "t:1", "after": "5-1", "events": "lifecycle",
         "token": "x", "ticket": "y"},
    )  # fmt: skip
    assert (main.user_id, main.thread_id, main.after) == ("u", "t:1", Cursor(5, 1))
    assert main.lifecycle_only
    standard = parse("/ws", {"mode": "factory", "thread_id": "t"})
    assert (standard.level, standard.scope, standard.thread_id) == (
        Level.STANDARD, Scope.THREAD, "t",
    )  # fmt: skip
    strict = parse("/ws/factory", {"isolation_level": "strict", "run_id": "r"})
    assert (strict.level, strict.scope, strict.run_id) == (Level.STRICT, Scope.RUN, "r")
    isolated = parse("/ws/isolated", {"connection": "c", "secret": "s", "connection_scope": "true"})
    assert (isolated.scope, isolated.connection, isolated.secret) == (Scope.CONNECTION, "c", "s")
    assert parse("/ws", {"mode": "legacy"}).scope is Scope.USER


@pytest.mark.parametrize(("path", "mode"), [(p, m) for p, m in ROUTES.items() if m is not None])
def test_an_old_route_means_its_mode_and_no_other(path: str, mode: Mode) -> None:
    """A ``mode`` that contradicts the path is refused, never read as either."""
    assert parse(path, {}).mode is mode
    assert parse(path, {"mode": mode.value}).mode is mode
    for other in set(Mode) - {mode}:
        assert refused({"mode": other.value}, path).code == "mode_contradicts_path"


def test_the_routes_are_the_protocols() -> None:
    """Protocol section 3."""
    assert ROUTES == {
        "/ws": None, "/websocket": Mode.MAIN, "/api/v1/websocket": Mode.MAIN,
        "/ws/factory": Mode.FACTORY, "/ws/isolated": Mode.ISOLATED,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "code", "valid"),
    [
        ({"mode": "secure"}, "invalid_mode", "factory, isolated, legacy, main"),
        ({"mode": ""}, "invalid_mode", "main"),
        ({"mode": "Main"}, "invalid_mode", "main"),
        ({"mode": "factory", "isolation_level": "high"}, "invalid_isolation_level",
         "standard, strict"),
        ({"mode": "isolated", "connection_scope": "false"}, "invalid_connection_scope", "true"),
        ({"mode": "isolated", "connection_scope": ""}, "invalid_connection_scope", "true"),
        ({"events": "some"}, "invalid_events", "all, lifecycle"),
        ({"thread": "t"}, "unknown_parameter", "thread_id"),
        ({"isolation_level": "strict"}, "parameter_not_allowed", "factory"),
        ({"run_id": "r"}, "parameter_not_allowed", "factory"),
        ({"mode": "factory", "run_id": "r"}, "parameter_not_allowed", "strict"),
        ({"mode": "factory", "isolation_level": "strict", "after": "0-0"},
         "run_id_required", "run_id"),
        ({"user_id": "a\ufffd"}, "invalid_user_id", "UTF-8"),
        ({"mode": "legacy", "after": "0-0"}, "parameter_not_allowed", "main"),
        ({"mode": "legacy", "events": "all"}, "parameter_not_allowed", "main"),
        ({"mode": "isolated", "connection": "c"}, "secret_required", "secret"),
        ({"mode": "isolated", "secret": "s"}, "secret_required", "connection"),
        ({"user_id": ""}, "invalid_user_id", "1 to 256 bytes"),
        ({"thread_id": "a\nb"}, "invalid_thread_id", "control characters"),
        ({"thread_id": "x" * 257}, "invalid_thread_id", "1 to 256 bytes"),
        ({"mode": "factory", "isolation_level": "strict", "run_id": "\ud800"}, "invalid_run_id",
         "Unicode"),
    ],
)  # fmt: skip
def test_a_refusal_has_a_code_and_says_what_is_valid(
    query: dict[str, str], code: str, valid: str
) -> None:
    """400 with the list of valid values."""
    error = refused(query)
    assert error.code == code
    assert valid in error.detail
    assert str(error) == error.detail


IN_ORDER: list[tuple[str, list[tuple[str, dict[str, str | None]]]]] = [
    ("/ws/factory?mode=x&a=b&secret=s&isolation_level=high&events=some&after=0-0&thread_id=", [
        ("invalid_mode", {"mode": "main"}),
        ("mode_contradicts_path", {"mode": "factory"}),
        ("unknown_parameter", {"a": None}),
        ("parameter_not_allowed", {"secret": None}),
        ("invalid_isolation_level", {"isolation_level": "strict"}),
        ("invalid_events", {"events": "all"}),
        ("run_id_required", {"run_id": "r"}),
        ("invalid_thread_id", {"thread_id": "t"}),
    ]),
    ("/ws/factory?isolation_level=standard&run_id=&thread_id=", [
        ("parameter_not_allowed", {"run_id": None}),
        ("invalid_thread_id", {"thread_id": "t"}),
    ]),
    ("/ws/isolated?connection_scope=false&secret=&user_id=", [
        ("invalid_connection_scope", {"connection_scope": "true"}),
        ("secret_required", {"connection": ""}),
        ("invalid_user_id", {"user_id": None}),
        ("invalid_connection", {"connection": "c"}),
        ("invalid_secret", {"secret": "s"}),
    ]),
]  # fmt: skip
"""A request with every fault, and what it is refused for while they are mended one by one."""


@pytest.mark.parametrize(("request_line", "faults"), IN_ORDER)
def test_of_several_faults_the_first_of_the_table_is_told(
    request_line: str, faults: list[tuple[str, dict[str, str | None]]]
) -> None:
    """The table had another order than the code, and not all codes; of two faults any was told."""
    path, _, words = request_line.partition("?")
    query = dict(parse_qsl(words, keep_blank_values=True))
    told = []
    for code, mended in faults:
        told.append(refused(query, path).code)
        query = {name: text for name, text in {**query, **mended}.items() if text is not None}
        assert told[-1] == code
    assert parse(path, query).mode is ROUTES[path]
    table = re.findall(r"^\| \d{3} \| (.*?) \|", PROTOCOL.read_text("utf-8"), re.MULTILINE)
    written = iter(re.findall(r"`(\w+)`", " ".join(table)))
    assert [code for code in told if code not in written] == [], "not in the table in this order"


@pytest.mark.parametrize("after", ["", "5", "05-1", "x", "5-1 ", "18446744073709551616-0"])
def test_a_cursor_that_is_none_is_answered_not_refused(after: str) -> None:
    """A ``resync`` will say so; the connection stands."""
    opening = parse("/ws", {"after": after})
    assert (opening.after, opening.bad_cursor) == (None, True)


@pytest.mark.parametrize(("name", "mode"), list(product(PARAMETERS, Mode)))
def test_each_parameter_is_taken_exactly_in_the_modes_where_it_means_something(
    name: str, mode: Mode
) -> None:
    """None is ever only logged."""
    value = {"mode": mode.value, "isolation_level": "strict", "connection_scope": "true",
             "after": "0-0", "events": "all"}  # fmt: skip
    query = {"mode": mode.value, name: value.get(name, "x")}
    if name in ("connection", "secret"):
        query |= {"connection": "c", "secret": "s"}
    if name == "run_id" and mode is Mode.FACTORY:
        query["isolation_level"] = "strict"
    if mode in PARAMETERS[name]:
        assert parse("/ws", query).mode is mode
    else:
        assert refused(query).code == "parameter_not_allowed"


@settings(relaxed, max_examples=250)
@given(path=st.sampled_from(sorted(ROUTES)), query=st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_query_is_an_opening_or_a_bad_request(path: str, query: dict[str, str]) -> None:
    """Nothing else is raised, and what is opened is exactly what was asked for."""
    try:
        opening = parse(path, query)
    except BadRequest as error:
        said = (error.status, bool(error.code), bool(error.detail))
        opening = None
    if opening is None:
        assert said == (400, True, True)
        return
    assert opening.mode == (ROUTES[path] or query.get("mode", "main"))
    assert opening.scope is SCOPES[opening.mode, opening.level]
    for name, value in query.items():
        _check_effect(opening, name, value)


def _check_effect(opening: Opening, name: str, value: str) -> None:
    if name in CREDENTIALS:
        return
    effects: dict[str, Any] = {
        "mode": opening.mode.value, "user_id": opening.user_id, "thread_id": opening.thread_id,
        "run_id": opening.run_id, "connection": opening.connection, "secret": opening.secret,
        "isolation_level": opening.level, "connection_scope": "true",
        "events": "lifecycle" if opening.lifecycle_only else "all",
        "after": value if opening.bad_cursor else str(opening.after),
    }  # fmt: skip
    assert effects[name] == value
