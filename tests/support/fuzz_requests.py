"""HTTP requests, lawful and not, and the status that each has to get."""

import json
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, quote_plus

from hypothesis import strategies as st

from tests.support.fuzz_frames import is_id
from tests.support.wire import Answer

Pairs = list[tuple[str, str]]

USER: Final = "{user}"
"""Stands for the token's subject."""

PATHS: Final = {
    "/ws": None,
    "/websocket": "main",
    "/api/v1/websocket": "main",
    "/ws/factory": "factory",
    "/ws/isolated": "isolated",
}
MEANT_FOR: Final = {
    "mode": {"main", "factory", "isolated", "legacy"},
    "user_id": {"main", "factory", "isolated", "legacy"},
    "thread_id": {"main", "factory", "isolated", "legacy"},
    "isolation_level": {"factory"},
    "connection_scope": {"isolated"},
    "after": {"main", "factory", "isolated"},
    "run_id": {"factory"},
    "connection": {"isolated"},
    "secret": {"isolated"},
    "events": {"main", "factory", "isolated"},
}
SAFE: Final = ":/@!$'()*,"
IDS: Final = ("user_id", "thread_id", "run_id", "connection", "secret")
PLAIN: Final = ("/ws/health", "/ws/config", "/livez", "/readyz", "/", "/static/chat.js")
CLOSED: Final = ("/ws/stats",)


@dataclass(frozen=True)
class Request:
    """``statuses``: what is right; empty = anything lawful. ``raw``: all bytes, else a target and
    headers of a WebSocket handshake in good order."""

    what: str
    target: str = "/ws"
    headers: tuple[str, ...] = ()
    statuses: frozenset[int] = frozenset()
    raw: bytes = b""
    authorized: bool = True


def status_of(path: str, pairs: Pairs) -> int:
    """Protocol section 3: what a request with these parameters gets."""
    query = dict(pairs)
    if len(query) != len(pairs):
        return 400
    mode = query.get("mode", PATHS[path] or "main")
    level = query.get("isolation_level", "standard")
    strict = mode == "factory" and level == "strict"
    wrong = (
        mode not in MEANT_FOR["mode"]
        or PATHS[path] not in (None, mode)
        or any(mode not in MEANT_FOR.get(name, ()) for name in query)
        or level not in ("standard", "strict")
        or query.get("connection_scope", "true") != "true"
        or query.get("events", "all") not in ("all", "lifecycle")
        or (strict and "after" in query and "run_id" not in query)
        or (not strict and "run_id" in query)
        or ("connection" in query) != ("secret" in query)
        or any(not is_id(query[name]) or "\ufffd" in query[name] for name in IDS if name in query)
    )
    if wrong:
        return 400
    foreign = query.get("user_id", USER) != USER
    return 403 if foreign or "run_id" in query or "connection" in query else 101


_odd = st.sampled_from(
    [
        "",
        " ",
        "\x00",
        "a\nb",
        "x" * 257,
        "é" * 128,
        "\ufffd",
        "../..",
        "null",
        "%00",
        "a&b=c",
        "a:b",
        "\U0001f600",
        "\u202e",
        "main ",
        "MAIN",
        "main,factory",
        "0-0",
        "-1-0",
        "1-1-1",
        "x" * 3000,
    ]
)
_text = st.text(st.characters(codec="utf-8"), max_size=10)
_values = {
    "mode": st.sampled_from(["main", "factory", "isolated", "legacy"]),
    "user_id": st.just(USER),
    "thread_id": st.sampled_from(["t1", "é", "a:b", "{1}"]),
    "isolation_level": st.sampled_from(["standard", "strict"]),
    "connection_scope": st.sampled_from(["true", "true", "false"]),
    "after": st.sampled_from(
        ["0-0", "1-1", "x", "9999999999999-0", "18446744073709551616-0", "٣-٣"]
    ),
    "run_id": st.sampled_from(["r1", "01J"]),
    "connection": st.just("c1"),
    "secret": st.just("s1"),
    "events": st.sampled_from(["all", "lifecycle"]),
    "x": _text,
}


@st.composite
def _queries(draw: st.DrawFn) -> Request:
    path = draw(st.sampled_from([*PATHS]))
    pairs: Pairs = []
    for name in draw(st.lists(st.sampled_from([*_values]), max_size=4, unique=True)):
        value = draw(_values[name] if draw(st.integers(0, 5)) else st.one_of(_odd, _text))
        pairs.append((name, value))
    if pairs and not draw(st.integers(0, 7)):
        pairs.append((draw(st.sampled_from(pairs))[0], draw(_text)))
    plain = draw(st.booleans())
    query = "&".join(
        f"{name}={quote(value, safe=SAFE) if plain else quote_plus(value)}" for name, value in pairs
    )
    query = query.replace(quote_plus(USER), USER)
    return Request(
        "query",
        f"{path}?{query}" if query or draw(st.booleans()) else path,
        statuses=frozenset({status_of(path, pairs)}),
    )


_one_name = st.builds(
    lambda name: Request("name", f"/static/{name}", statuses=frozenset({404})),
    st.sampled_from(
        [
            "..%2fapp.py",
            "%2e%2e%2fapp.py",
            "..%2F..%2Fgateway%2fapp.py",
            "..%5capp.py",
            "%2fetc%2fpasswd",
            "chat.js%00",
            "chat.js%2f",
            ".",
            "..",
            "chat.js/",
            "CHAT.JS",
            "",
        ]
    ),
)


@st.composite
def _one_oddity(draw: st.DrawFn) -> Request:
    """A request that is right but for one value."""
    path = draw(st.sampled_from(["/ws", "/ws/factory", "/ws/isolated"]))
    name = draw(st.sampled_from([*MEANT_FOR]))
    value = draw(st.one_of(_odd, _text))
    return Request(
        "one odd value",
        f"{path}?{name}={quote_plus(value)}",
        statuses=frozenset({status_of(path, [(name, value)])}),
    )


_percent = st.sampled_from(
    [
        "%",
        "%z",
        "%ff",
        "%c0%af",
        "%00",
        "%u0041",
        "%25%32%35",
        "+",
        ";",
        "&",
        "=",
        "==",
        "&&",
        "#",
        "?",
        "%0d%0aX:y",
        "%ed%a0%80",
        "[]",
        "mode",
        "mode=main",
        "mode%3dmain",
        "token",
        "ticket=x",
    ]
)
_rubbish_query = st.builds(
    lambda path, parts: Request("rubbish query", f"{path}?{''.join(parts)}"),
    st.sampled_from([*PATHS]),
    st.lists(_percent, min_size=1, max_size=8),
)
_long_query = st.builds(
    lambda size: Request("long query", f"/ws?thread_id={'x' * size}", statuses=frozenset({400})),
    st.sampled_from([300, 4000, 8000, 9000, 20_000]),
)

_traversal = st.builds(
    lambda parts, slash, name: Request("path", "/static/" + slash.join([*parts, name])),
    st.lists(
        st.sampled_from(
            [
                "..",
                "%2e%2e",
                "..%2f..",
                "%2e%2e%2f",
                "..%5c..",
                ".",
                "",
                "~",
                "%00",
                "....//",
                "..;",
                "C:",
                "%252e%252e",
                "web",
                "\u2025",
            ]
        ),
        max_size=6,
    ),
    st.sampled_from(["/", "/", "%2f", "%5c"]),
    st.sampled_from(
        [
            "..%2fapp.py",
            "%2e%2e%2fapp.py",
            "app.py",
            "../app.py",
            "etc/passwd",
            "broker/config.py",
            "%00.js",
            "gateway",
        ]
    ),
)

_header_value = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    st.text(st.characters(min_codepoint=128, max_codepoint=255), max_size=8),
    st.sampled_from(["", ",", ",,", " ", "\t", "x" * 4000, "\x7f", '"', "é", "null", "*"]),
)


def _header(
    what: str, name: str, values: st.SearchStrategy[str], *statuses: int
) -> st.SearchStrategy[Request]:
    return st.builds(
        lambda value: Request(what, headers=(f"{name}: {value}",), statuses=frozenset(statuses)),
        values,
    )


_headers = st.one_of(
    _header(
        "subprotocols",
        "Sec-WebSocket-Protocol",
        st.lists(
            st.sampled_from(
                ["runcast.v3", "jwt-auth", "x", "", "runcast.v4", " runcast.v3 ", "é", "JWT-AUTH"]
            ),
            max_size=5,
        ).map(",".join),
    ),
    _header("odd subprotocols", "Sec-WebSocket-Protocol", _header_value),
    _header(
        "foreign origin",
        "Origin",
        st.sampled_from(
            [
                "https://evil.example",
                "null",
                "http://",
                "://",
                "http://127.0.0.1",
                "x",
                "http://[::1",
                "http://[",
                "//",
                "http://127.0.0.1:1@evil.example",
            ]
        ),
        403,
    ),
    _header("origin", "Origin", _header_value),
    _header(
        "extensions",
        "Sec-WebSocket-Extensions",
        st.one_of(
            st.sampled_from(
                ["permessage-deflate", "permessage-deflate; client_max_window_bits=99", "x;y=z"]
            ),
            _header_value,
        ),
    ),
    _header("cookie", "Cookie", _header_value),
    _header("a second key", "Sec-WebSocket-Key", _header_value),
    _header(
        "a second version",
        "Sec-WebSocket-Version",
        st.sampled_from(["13", "12", "", "13, 12", "é"]),
    ),
    _header(
        "body",
        "Content-Length",
        st.sampled_from(["0", "5", "-1", "+5", "0x5", "1e3", "5, 5", "9" * 30, ""]),
    ),
    _header(
        "chunks",
        "Transfer-Encoding",
        st.sampled_from(["chunked", "identity", "chunked, chunked", "x", ""]),
    ),
    _header("expectation", "Expect", st.sampled_from(["100-continue", "x", ""])),
    _header("host", "Host", _header_value),
    _header(
        "connection",
        "Connection",
        st.sampled_from(["close", "keep-alive", "upgrade, close", "x,,", ""]),
    ),
    st.builds(
        lambda name, value: Request("any header", headers=(f"{name}: {value}",)),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20),
        _header_value,
    ),
)


def _raw(what: str, text: str, *statuses: int) -> Request:
    data = text.replace("\n", "\r\n").encode("utf-8", "surrogateescape")
    return Request(what, raw=data, statuses=frozenset(statuses), authorized=False)


_upgrade = "Host: x\nUpgrade: websocket\nConnection: Upgrade\n"
_key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n"
_not_websockets = st.sampled_from(
    [
        _raw("no upgrade", "GET /ws HTTP/1.1\nHost: x\nConnection: close\n\n", 426),
        _raw("no key", f"GET /ws HTTP/1.1\n{_upgrade}Sec-WebSocket-Version: 13\n\n", 426),
        _raw(
            "short key",
            f"GET /ws HTTP/1.1\n{_upgrade}Sec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAA\n\n",
            426,
        ),
        _raw(
            "odd key",
            f"GET /ws HTTP/1.1\n{_upgrade}Sec-WebSocket-Version: 13\nSec-WebSocket-Key: \u00e9\n\n",
            426,
        ),
        _raw("no version", f"GET /ws HTTP/1.1\n{_upgrade}{_key}\n", 426),
        _raw("old version", f"GET /ws HTTP/1.1\n{_upgrade}{_key}Sec-WebSocket-Version: 8\n\n", 426),
        _raw("no token", f"GET /ws HTTP/1.1\n{_upgrade}{_key}Sec-WebSocket-Version: 13\n\n", 401),
        _raw(
            "other upgrade",
            "GET /ws HTTP/1.1\nHost: x\nUpgrade: h2c\nConnection: Upgrade, HTTP2-Settings\n\n",
            426,
        ),
        _raw("old HTTP", "GET /ws HTTP/1.0\n\n", 426),
    ]
)

_method = st.sampled_from(
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "X", "get"]
)
_target = st.sampled_from(
    [
        *PATHS,
        *PLAIN,
        *CLOSED,
        "*",
        "//",
        "/ws/",
        "/ws//stats",
        "/WS",
        "/%77s",
        "/ws/../ws/stats",
        "/demo/token",
        "/metrics",
        "/api/v1/history",
        "http://evil.example/ws",
        "/static/",
        "/static",
        "ws",
        "/\u00e9",
        "/ws/stats?x=%ff",
    ]
)
_body = st.one_of(
    st.just(""),
    st.builds(lambda text: f"Content-Length: {len(text.encode())}\n\n{text}", _text),
    st.sampled_from(
        [
            "Content-Length: 3\nContent-Length: 4\n\nabcd",
            "Content-Length: 5\n\nab",
            "Transfer-Encoding: chunked\n\n5\nhello\n0\n\n",
            "Transfer-Encoding: chunked\n\nzz\nhello\n",
            (
                "Transfer-Encoding: chunked\nContent-Length: 4\n\n0\n\n"
                "GET /ws/stats HTTP/1.1\nHost: x\n\n"
            ),
            "Content-Length: 0\nTransfer-Encoding:\tchunked\n\n0\n\n",
            "Content-Length: 44\n\n0\n\nGET /ws/stats HTTP/1.1\nHost: x\nX: y\n\n",
            "Transfer-Encoding: xchunked\n\n0\n\n",
            "Transfer-Encoding : chunked\n\n0\n\n",
            "Transfer-Encoding: chunked\n\nffffffffffffffff\nx",
            "Transfer-Encoding: chunked\n\n-1\nx\n0\n\n",
            "Content-Encoding: gzip\nContent-Length: 4\n\n\x1f\x08\x00\x00",
            "Content-Encoding: br\nContent-Length: 1\n\nx",
        ]
    ),
)
_plain = st.builds(
    lambda method, target, body: _raw(
        "method and body", f"{method} {target} HTTP/1.1\nHost: x\nConnection: close\n{body}\n\n"
    ),
    _method,
    _target,
    _body,
)
_broken = st.one_of(
    st.builds(
        lambda data: Request("noise", raw=data, authorized=False),
        st.binary(min_size=1, max_size=200),
    ),
    st.builds(
        lambda version: _raw("version", f"GET /readyz {version}\nHost: x\n\n"),
        st.sampled_from(
            ["", "HTTP/2.0", "HTTP/9.9", "HTTP/1", "http/1.1", "HTTP/1.1 x", "HTTP/1.10"]
        ),
    ),
    st.builds(
        lambda line: _raw("line", f"GET /readyz HTTP/1.1\nHost: x\n{line}\n\n"),
        st.sampled_from(
            [
                " folded",
                "no colon",
                ": nameless",
                "a b: c",
                "x:\x00",
                "x: \x0b",
                "X: \udcff",
                "\x01: a",
                "Host: y",
                "x: " + "y" * 10_000,
                "\n".join(f"h{n}: v" for n in range(200)),
            ]
        ),
    ),
    st.builds(
        lambda data, at: Request(
            "cut off", raw=data.raw[: at % len(data.raw)] or b"G", authorized=False
        ),
        _plain,
        st.integers(0, 300),
    ),
    st.builds(
        lambda data: Request(
            "line feeds only", raw=data.raw.replace(b"\r\n", b"\n"), authorized=False
        ),
        _plain,
    ),
)

requests: st.SearchStrategy[Request] = st.one_of(
    _queries(),
    _queries(),
    _one_oddity(),
    _rubbish_query,
    _long_query,
    _traversal,
    _one_name,
    _one_oddity(),
    _headers,
    _headers,
    _not_websockets,
    _plain,
    _plain,
    _broken,
)
"""What may arrive at the gateway's port."""


def check_refusal(got: Answer, told: str, *, head: bool = False) -> None:
    """RFC 9457, with the code of protocol section 3; ``head``: without its body."""
    if got.headers.get("content-type", "").startswith("application/problem+json"):
        if head:
            return
        body = json.loads(got.body[: int(got.headers["content-length"])])
        assert body["status"] == got.status, f"{told}{body}"
        assert body["code"], f"{told}{body}"
        assert body["detail"], f"{told}{body}"
    else:
        # What is no HTTP is refused by the parser, before there is a request.
        assert got.status in (400, 417), f"{told}{got} is no problem report"
