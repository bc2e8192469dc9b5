"""Cross-site WebSocket hijacking, tried by a real browser on a page of somebody else."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("playwright", reason="the browser tests need the extra `browser`")

if TYPE_CHECKING:
    from playwright.async_api import Browser

CONNECT = """async ([url, token]) => new Promise((done) => {
  const socket = new WebSocket(url, ["runcast.v3", `jwt.${token}`]);
  socket.onmessage = ({ data }) => { done(JSON.parse(data).type); socket.close(); };
  socket.onclose = ({ code }) => done(code);
})"""
LOGIN = """async () => {
  const login = { method: "POST", body: JSON.stringify({ user: "alice" }) };
  return (await (await fetch("/demo/token", login)).json()).token;
}"""
ABNORMAL = 1006
"""What a page is told when the handshake was refused."""


@contextmanager
def foreign_page() -> Iterator[str]:
    """A page that the gateway knows nothing of."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>evil</title>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


async def test_cross_site_websocket_hijacking_fails_in_a_real_browser(
    demo: str, chromium: "Browser"
) -> None:
    """With a valid token in its hands, a page of another origin gets no connection.

    The gateway's own page gets one with the same token, so it is the origin that decides; neither
    can a frame without an origin (``null``) connect, nor the page log in and read the token.
    """
    url = demo.replace("http", "ws", 1) + "ws"
    own = await chromium.new_page()
    await own.goto(demo)
    users = await own.evaluate("async () => (await (await fetch('/demo/session')).json()).users")
    token = await own.evaluate(LOGIN.replace("alice", users[0]["id"]))
    assert await own.evaluate(CONNECT, [url, token]) == "connection_established"
    with foreign_page() as page:
        foreign = await chromium.new_page()
        await foreign.goto(page)
        assert await foreign.evaluate("() => location.origin") != demo.rstrip("/")
        assert await foreign.evaluate(CONNECT, [url, token]) == ABNORMAL
        stolen = LOGIN.replace('"/demo/token"', f'"{demo}demo/token"')
        assert await foreign.evaluate(f"() => ({stolen})().catch(() => 'unreadable')") == (
            "unreadable"
        )
        await foreign.set_content('<iframe sandbox="allow-scripts" srcdoc="x"></iframe>')
        element = await foreign.wait_for_selector("iframe")
        assert element is not None
        frame = await element.content_frame()
        assert frame is not None
        assert await frame.evaluate("() => origin") == "null"
        assert await frame.evaluate(CONNECT, [url, token]) == ABNORMAL
    assert await own.evaluate(CONNECT, [url, token]) == "connection_established"
