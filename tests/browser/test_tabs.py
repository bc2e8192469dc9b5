"""Tabs of one browser that share a socket, through the fault proxy, before the history's judge."""

import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright", reason="the browser tests need the extra `browser`")

from playwright.async_api import Error as PlaywrightError

from tests.browser.panes import Tab, expect_ended, expect_steps, new_thread
from tests.support.chaos import Scene, chaos, until
from tests.support.history import Epoch, Place, Reader, RunRecord, check, describe
from tests.support.servers import token

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page

ASKS = {"count": 30, "per_second": 30}

OPEN = """async (token) => {
  const { RuncastClient } = await import("/static/runcast.js");
  const chat = new RuncastClient({ token: async () => token, after: "0-0" });
  Object.assign(window, { chat, told: [], states: [] });
  const types = ["agent_started", "agent_thinking", "tool_executing", "tool_completed",
    "agent_completed", "agent_delta", "user_message", "resync"];
  for (const type of types) {
    chat.on(type, (event, context) => context?.origin !== "local" && told.push(event));
  }
  chat.on("state", ({ state }) => states.push(state));
  chat.connect();
}"""


class SharedTabs:
    """Pages of one browser profile, each with a client of one user."""

    def __init__(self, scene: Scene, context: "BrowserContext", user: str) -> None:
        self.scene, self.context, self.user = scene, context, user
        self.pages: list[Page] = []
        self.told: list[list[dict[str, Any]]] = []

    async def add(self) -> "Page":
        page = await self.context.new_page()
        await page.goto(self.scene.gateways[0].base)
        await page.evaluate(OPEN, token(self.user))
        self.pages.append(page)
        return page

    async def ask(self, page: "Page") -> str:
        accepted = await page.evaluate("(content) => chat.send(content, {agent: 'notes'})", ASKS)
        run_id: str = accepted["run_id"]
        place = Place("user", self.user)
        self.scene.runs[run_id] = RunRecord(run_id, place, accepted["thread_id"])
        return run_id

    async def heard(self, page: "Page", run_id: str, count: int) -> None:
        arrived = "([run, count]) => told.filter(({run_id}) => run_id === run).length >= count"
        await page.wait_for_function(arrived, arg=[run_id, count], timeout=60_000)

    async def ended(self, run_id: str) -> None:
        ended = "(run) => told.some((e) => e.run_id === run && e.type === 'agent_completed')"
        for page in self.pages:
            await page.wait_for_function(ended, arg=run_id, timeout=60_000)

    async def leader(self) -> "Page":
        """The page that holds the lock, and so the socket."""
        query = "async () => (await navigator.locks.query()).held.map(({clientId}) => clientId)"
        own = """async () => {
          let id = "";
          await navigator.locks.request(`me ${Math.random()}`, async ({name}) => {
            const {held} = await navigator.locks.query();
            id = held.find((lock) => lock.name === name).clientId;
          });
          return id;
        }"""
        holders = set(await self.pages[0].evaluate(query))
        for page in self.pages:
            if await page.evaluate(own) in holders:
                return page
        raise AssertionError("no page has the lock")

    def sockets(self) -> int:
        total: int = self.scene.gateways[0].stats()["connections"]["total"]
        return total

    async def judge(self) -> None:
        await self.scene.settle()
        readers = [
            Reader(f"tab {number}", Place("user", self.user), [Epoch("0-0", tuple(told))])
            for number, page in enumerate(self.pages)
            for told in [await page.evaluate("told")]
        ]
        violations = check(dataclasses.replace(self.scene.history(), readers=readers))
        assert not violations, describe(violations)


@pytest.mark.timeout(300)
async def test_tabs_share_a_socket_and_none_loses_or_doubles_an_event(chromium: "Browser") -> None:
    async with chaos(
        lambda _: None, gateways=1, doors=True, RUNCAST_HEARTBEAT_SECONDS="2"
    ) as scene:
        context = await chromium.new_context(bypass_csp=True)  # to wait for what is in the page
        tabs = SharedTabs(scene, context, "alice")
        door = scene.gateways[0].door
        assert door is not None
        first = await tabs.add()
        await first.wait_for_function("chat.state === 'live'")
        for _ in range(2):
            await tabs.add()
        for page in tabs.pages:
            await page.wait_for_function("chat.state === 'live'")
        await until(lambda: tabs.sockets() == 1, what="one socket")

        # A follower asks, the connection is cut, and its tab is closed: another one leads.
        run_id = await tabs.ask(tabs.pages[2])
        await tabs.heard(tabs.pages[1], run_id, 5)
        door.cut()
        await tabs.heard(tabs.pages[1], run_id, 15)
        leader = await tabs.leader()
        tabs.pages.remove(leader)
        await leader.close()
        await tabs.ended(run_id)

        # A tab that crashes tells nobody; one that joins late gets everything.
        run_id = await tabs.ask(tabs.pages[0])
        await tabs.heard(tabs.pages[1], run_id, 5)
        late = await tabs.add()
        await tabs.heard(late, run_id, 5)
        leader = await tabs.leader()
        tabs.pages.remove(leader)
        leader.once("crash", lambda _: None)
        with suppress(PlaywrightError):
            await leader.goto("chrome://crash")
        await tabs.ended(run_id)
        await tabs.judge()
        await until(lambda: tabs.sockets() == 1, what="one socket")
        await context.close()


async def test_a_second_tab_follows_the_page_along(
    open_tab: Callable[..., Awaitable[Tab]], demo: str, questions: dict[str, str]
) -> None:
    tab = await open_tab()
    sockets: list[str] = []
    tab.page.context.on(
        "page", lambda page: page.on("websocket", lambda ws: sockets.append(ws.url))
    )
    tab.page.on("websocket", lambda ws: sockets.append(ws.url))
    await tab.pane.log_in("Alice")
    thread = new_thread()
    await tab.pane.choose(thread=thread)
    second = Tab(await tab.page.context.new_page(), demo)
    await second.go()
    await second.pane.log_in("Alice")
    await second.pane.choose(thread=thread)
    before = len(sockets)
    run = await second.pane.ask(questions["slow"])
    seen = tab.pane.runs.first
    for one in (run, seen):
        await one.locator("> .answer .text").filter(has_text="numbers").wait_for()
    await tab.page.close()
    await expect_ended(run)
    await expect_steps(run)
    assert len(sockets) <= before + 1  # the second tab's own, when the first was gone
    third = Tab(await second.page.context.new_page(), demo)
    await third.go()
    await third.pane.log_in("Alice")
    await third.pane.choose(thread=thread)
    again = third.pane.runs.first
    await expect_ended(again)
    answers = [await one.locator("> .answer .text").inner_text() for one in (run, again)]
    assert answers[0] == answers[1]
    await second.expect_no_complaints()
    tab.page = third.page
