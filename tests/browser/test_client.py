"""The browser client against a scripted server: what it does when connections go wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("playwright", reason="the browser tests need the extra `browser`")

from playwright.async_api import WebSocketRoute

from tests.browser.panes import Tab
from tests.support.clients import PATIENCE_SECONDS

Frame = dict[str, Any]

START = """async (options) => {
  const { RuncastClient } = await import("/static/runcast.js");
  const tokens = [];
  const heard = [];
  const token = async ({ fresh }) => {
    if (fresh || tokens.length === 0) tokens.push(`token${tokens.length + 1}`);
    return tokens.at(-1);
  };
  const chat = new RuncastClient({ token, ...options });
  chat.on("event", ({ id, type }, { origin }) => heard.push([id, type, origin]));
  chat.on("state", ({ state, retryInMs }) => states.push([state, retryInMs]));
  const states = [];
  Object.assign(window, { chat, tokens, heard, states });
  chat.connect();
}"""


class Link:
    """One connection of the client, seen from the server."""

    def __init__(self, route: WebSocketRoute) -> None:
        self.route = route
        self.query = {
            name: values[0] for name, values in parse_qs(urlsplit(route.url).query).items()
        }
        self.inbox: asyncio.Queue[Frame] = asyncio.Queue()
        route.on_message(lambda text: self.inbox.put_nowait(json.loads(text)))

    def send(self, type: str, payload: Frame | None = None, **fields: Any) -> None:
        self.route.send(json.dumps({"type": type, **fields, "payload": payload or {}}))

    def welcome(self, cursor: str = "5-0", **payload: Any) -> None:
        given = {"cursor": cursor, "heartbeat_seconds": 25, "connection_id": "c1", **payload}
        self.send("connection_established", given)

    def live(self, cursor: str = "5-0") -> None:
        self.send("live", {"cursor": cursor})

    def event(
        self, id: str, type: str = "agent_thinking", run_id: str = "r1", **payload: Any
    ) -> None:
        seq = int(id.replace("-", ""))
        self.send(type, payload, id=id, run_id=run_id, seq=seq, timestamp=f"at {id}")

    async def receive(self, type: str) -> Frame:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (frame := await self.inbox.get())["type"] != type:
                pass
        return frame


class Script:
    """The server's side: connections in the order in which they come."""

    def __init__(self, tab: Tab) -> None:
        self.page = tab.page
        self.links: asyncio.Queue[Link] = asyncio.Queue()

    async def start(self, **options: Any) -> Link:
        await self.page.evaluate(START, options)
        return await self.link()

    async def link(self) -> Link:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.links.get()

    async def do(self, expression: str) -> Any:
        return await self.page.evaluate(expression)

    async def until(self, expression: str, value: Any) -> None:
        """Wait until an expression has a value in the page."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while (found := await self.page.evaluate(expression)) != value:
            assert asyncio.get_running_loop().time() < deadline, f"{expression} is {found}"
            await self.page.evaluate("new Promise(requestAnimationFrame)")


@pytest.fixture
async def script(open_tab: Callable[..., Awaitable[Tab]]) -> AsyncIterator[Script]:
    tab = await open_tab()
    script = Script(tab)
    await tab.page.route_web_socket("**/ws**", lambda route: script.links.put_nowait(Link(route)))
    await tab.page.reload()
    yield script
    await script.do("window.chat?.close()")


async def test_cursors_are_compared_as_numbers_part_by_part(script: Script) -> None:
    compare = """async (pairs) => {
      const { compareCursors } = await import("/static/runcast.js");
      return pairs.map(([one, other]) => Math.sign(compareCursors(one, other)));
    }"""
    pairs = [
        ("9-0", "10-0", -1),
        ("1-9", "1-10", -1),
        ("1-10", "1-9", 1),
        ("7-7", "7-7", 0),
        ("18446744073709551615-0", "18446744073709551614-0", 1),
        ("0-0", "0-1", -1),
    ]
    found = await script.page.evaluate(compare, [pair[:2] for pair in pairs])
    assert found == [pair[2] for pair in pairs]


async def test_delays_double_up_to_a_limit_and_are_jittered_from_nothing(script: Script) -> None:
    ceilings = "Array.from({length: 10}, (_, n) => backoff(n, () => 1))"
    floors = "Array.from({length: 10}, (_, n) => backoff(n, () => 0))"
    found = await script.do(
        f"import('/static/runcast.js').then(({{backoff}}) => [{ceilings}, {floors}])"
    )
    assert found[0] == [250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000, 15000]
    assert found[1] == [0] * 10


async def test_it_comes_back_from_its_cursor_and_drops_what_it_has(script: Script) -> None:
    link = await script.start(threadId="t1")
    assert link.query == {"mode": "main", "thread_id": "t1"}
    link.welcome("9-0")
    link.live("9-0")
    link.event("9-9", "agent_started")
    link.event("9-10")
    link.event("9-9")
    await script.until("heard.length", 2)
    await link.route.close(code=1012)
    link = await script.link()
    assert link.query["after"] == "9-10"
    link.welcome("10-0")
    link.event("9-10")
    link.event("10-0")
    link.live("10-0")
    link.event("11-0", "agent_completed")
    await script.until("heard.length", 4)
    assert await script.do("heard") == [
        ["9-9", "agent_started", "live"],
        ["9-10", "agent_thinking", "live"],
        ["10-0", "agent_thinking", "resumed"],
        ["11-0", "agent_completed", "live"],
    ]


async def test_lost_before_its_first_event_it_still_has_a_place_to_come_back_to(
    script: Script,
) -> None:
    link = await script.start()
    link.welcome("5-0")
    link.live("5-0")
    await script.until("chat.state", "live")
    await link.route.close(code=4408)
    assert (await script.link()).query["after"] == "5-0"


async def test_after_a_resync_it_goes_on_where_the_server_does_without_repeats(
    script: Script,
) -> None:
    link = await script.start(after="0-0")
    link.welcome()
    for cursor in ("1-0", "2-0", "3-0"):
        link.event(cursor)
    link.live("3-0")
    link.send("resync", {"reason": "forked", "from": "1-0", "channel_cursor": "2-5"})
    link.event("2-0")
    link.event("2-5")
    await script.until("heard.map(([id]) => id).join()", "1-0,2-0,3-0,2-5")
    assert await script.do("chat.cursor") == "2-5"


@pytest.mark.parametrize("code", [1000, 1009, 4400, 4403, 4409])
async def test_it_stays_away_when_told_to(script: Script, code: int) -> None:
    link = await script.start()
    link.welcome()
    link.live()
    await script.until("chat.state", "live")
    await script.do("void (window.refused = chat.send('x').catch((error) => error.code))")
    await link.route.close(code=code, reason="enough")
    await script.until("chat.state", "stopped")
    assert await script.do("refused") == "closed"
    assert script.links.empty()


async def test_a_refused_token_is_replaced_before_it_comes_back(script: Script) -> None:
    link = await script.start()
    await link.route.close(code=4401)
    link = await script.link()
    assert await script.do("tokens") == ["token1", "token2"]
    link.welcome()
    link.live()
    await script.until("chat.state", "live")


async def test_without_another_token_it_gives_up(script: Script) -> None:
    await script.page.evaluate(START, {})
    link = await script.link()
    link.welcome()
    await script.do("void (chat.close())")
    await script.page.evaluate(START.replace("fresh || ", ""), {})
    link = await script.link()
    await link.route.close(code=4401)
    await script.until("chat.state", "stopped")


async def test_too_many_means_later(script: Script) -> None:
    link = await script.start()
    await link.route.close(code=4429)
    await script.until("chat.state", "waiting")
    ((_, delay),) = [one for one in await script.do("states") if one[0] == "waiting"]
    assert 7_500 <= delay <= 15_000


async def test_a_draining_server_says_when_to_come_back(script: Script) -> None:
    link = await script.start()
    link.welcome()
    link.live()
    link.send("draining", {"reconnect_after_ms": 321})
    await script.until("chat.state", "live")
    await link.route.close(code=1001)
    await script.link()
    assert ["waiting", 321] in await script.do("states")


async def test_an_unanswered_message_is_sent_again_under_its_id(script: Script) -> None:
    link = await script.start()
    link.welcome()
    link.live()
    await script.do("void (window.accepted = chat.send('1 2 3'))")
    first = await link.receive("user_message")
    await link.route.close(code=1012)
    link = await script.link()
    link.welcome()
    again = await link.receive("user_message")
    assert again == first
    link.send("run_accepted", {"run_id": "r1", "duplicate": True}, ref=first["id"])
    assert (await script.do("accepted"))["run_id"] == "r1"
    await link.route.close(code=1012)
    link = await script.link()
    link.welcome()
    await script.do("void chat.stop('r1').catch(() => {})")
    assert (await link.inbox.get())["type"] == "stop_agent"


async def test_a_message_written_while_away_is_sent_on_return(script: Script) -> None:
    link = await script.start()
    link.welcome()
    link.live()
    await script.do("chat.disconnect()")
    assert await script.do("chat.state") == "idle"
    await script.do("void (chat.send({text: 'later'}).catch(() => {}), chat.connect())")
    link = await script.link()
    link.welcome()
    assert (await link.receive("user_message"))["payload"]["content"] == {"text": "later"}


async def test_an_error_answer_rejects_with_its_code(script: Script) -> None:
    link = await script.start()
    link.welcome()
    link.live()
    await script.do("void (window.refused = chat.send('x').catch((e) => [e.code, e.retryable]))")
    asked = await link.receive("user_message")
    payload = {"code": "queue_full", "message": "Try later.", "retryable": True}
    link.send("error", payload, ref=asked["id"])
    assert await script.do("refused") == ["queue_full", True]


async def test_an_expiring_token_is_refreshed_in_band(script: Script) -> None:
    link = await script.start()
    link.welcome()
    link.live()
    link.send("token_expiring", {"expires_at": "2026-11-23T00:00:00Z"})
    assert (await link.receive("auth_refresh"))["payload"] == {"token": "token2"}


async def test_a_silent_connection_is_pinged(script: Script) -> None:
    link = await script.start()
    link.welcome(heartbeat_seconds=0.05)
    link.live()
    ping = await link.receive("ping")
    link.send("pong", {}, ref=ping["id"])
    await link.receive("ping")
    assert await script.do("chat.state") == "live"


async def test_text_is_joined_only_where_it_fits(script: Script) -> None:
    link = await script.start()
    await script.do("void (chat.on('agent_delta', (_, {text}) => heard.push(text)))")
    link.welcome()
    link.live()
    for offset, text in ((0, "né"), (3, "e"), (9, "lost"), (0, "née "), (5, "Ada"), (5, "Ada")):
        after = offset + len(text.encode())
        link.send("agent_delta", {"offset": offset, "next": after, "text": text}, run_id="r1")
    link.event("6-0", "agent_completed")
    await script.until("heard.length", 5)
    assert (await script.do("heard"))[:4] == ["né", "née", "née ", "née Ada"]


async def test_isolated_takes_its_own_channel_up_again(script: Script) -> None:
    link = await script.start(mode="isolated")
    link.welcome(secret="s1")
    link.live()
    link.event("6-0", "agent_started")
    await script.until("heard.length", 1)
    await link.route.close(code=1012)
    link = await script.link()
    assert link.query == {"mode": "isolated", "connection": "c1", "secret": "s1", "after": "6-0"}


async def test_factory_goes_back_to_the_thread_that_the_server_made(script: Script) -> None:
    link = await script.start(mode="factory")
    assert link.query == {"mode": "factory", "isolation_level": "standard"}
    link.welcome(thread_id="made")
    link.live("6-0")
    await script.until("chat.state", "live")
    await link.route.close(code=1012)
    link = await script.link()
    assert (link.query["thread_id"], link.query["after"]) == ("made", "6-0")


async def test_each_thread_keeps_its_own_cursor(script: Script) -> None:
    link = await script.start(mode="factory", threadId="t1")
    link.welcome("7-0")
    link.live("7-0")
    await script.until("chat.state", "live")
    await script.do("void (chat.disconnect(), chat.connect({threadId: 't2'}))")
    link = await script.link()
    assert "after" not in link.query
    link.welcome("3-0")
    link.live("3-0")
    await script.until("chat.state", "live")
    await script.do("void (chat.disconnect(), chat.connect({threadId: 't1'}))")
    assert (await script.link()).query["after"] == "7-0"


async def test_strict_takes_up_every_open_run_and_no_other(script: Script) -> None:
    link = await script.start(mode="factory", isolationLevel="strict", threadId="t1")
    assert link.query == {"mode": "factory", "isolation_level": "strict"}
    link.welcome("0-0", thread_id="t1")
    link.live("0-0")
    for run in ("r1", "r2", "r3"):
        await script.do("void chat.send('x')")
        asked = await link.receive("user_message")
        link.send("run_accepted", {"run_id": run}, ref=asked["id"])
        link.event("5-1", "agent_started", run_id=run)
    link.event("5-2", "agent_completed", run_id="r1")
    await script.until("heard.length", 4)
    await link.route.close(code=1012)
    link = await script.link()
    assert (link.query["run_id"], link.query["after"]) == ("r3", "5-1")
    link.welcome("6-0", thread_id="t1")
    attach = await link.receive("attach")
    assert attach["payload"] == {"run_id": "r2", "after": "5-1"}
    link.event("6-0", run_id="r3")
    link.live("6-0")
    link.send("ok", {"cursor": "5-2"}, ref=attach["id"])
    link.event("5-2", run_id="r2")
    link.event("5-3", run_id="r2")
    await script.until("heard.length", 7)
    assert (await script.do("heard"))[4:] == [
        ["6-0", "agent_thinking", "resumed"],
        ["5-2", "agent_thinking", "resumed"],
        ["5-3", "agent_thinking", "live"],
    ]


async def test_legacy_frames_are_read_like_all_others(script: Script) -> None:
    link = await script.start(mode="legacy")
    await script.do(
        "void (chat.on('agent_started', ({payload, run_id}) => heard.push([payload, run_id])))"
    )
    for kind, data in (("connection_established", {}), ("agent_started", {"message": "Hello"})):
        link.route.send(json.dumps({"type": kind, "data": data, "run_id": "r1", "timestamp": "…"}))
    await script.until("heard.length", 2)
    assert [{"message": "Hello"}, "r1"] in await script.do("heard")
    assert await script.do("chat.state") == "live"
