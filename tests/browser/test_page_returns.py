"""The chat page through what happens to pages: reloads, lost networks, short tokens, restarts."""

import itertools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright", reason="the browser tests need the extra `browser`")

from playwright.async_api import Locator, expect

from broker.config import Settings
from gateway.app import Gateway
from tests.browser.panes import Tab, expect_ended, expect_more, expect_steps, new_thread
from tests.support.servers import Fleet, Redis, running_fleet, token

if TYPE_CHECKING:
    from playwright.async_api import Browser

OpenTab = Callable[..., Awaitable[Tab]]

EXPIRING_SECONDS = 60
"""How long before a token's end the gateway says so (protocol section 5)."""

OFFLINE_SECONDS = 5.0


def answer(run: Locator) -> Locator:
    return run.locator("> .answer .text")


async def alice(open_tab: OpenTab, **options: Any) -> Tab:
    tab = await open_tab(**options)
    await tab.pane.log_in("Alice")
    await tab.pane.choose(thread=new_thread())
    return tab


async def test_text_is_shown_as_it_is_written(open_tab: OpenTab, questions: dict[str, str]) -> None:
    pane = (await alice(open_tab)).pane
    run = await pane.ask(questions["long"])
    seen = [await expect_more(answer(run)) for _ in range(5)]
    await expect(run).to_have_attribute("data-status", "open")
    await pane.press("Stop")
    await expect_ended(run, "cancelled")
    seen.append(await answer(run).inner_text())
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))


async def test_a_reload_in_mid_answer_goes_on_with_it(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    pane = (await alice(open_tab)).pane
    run = await pane.ask(questions["long"])
    await expect(answer(run)).not_to_be_empty()
    before = await answer(run).inner_text()
    await pane.page.reload()
    again = pane.runs.first
    assert (await expect_more(answer(again))).startswith(before)
    await expect(again).to_have_attribute("data-status", "open")
    await pane.press("Stop")
    await expect_ended(again, "cancelled")
    await expect_steps(again)
    await expect(pane.root.locator(".question-text")).to_have_text([questions["long"]])
    await expect(pane.runs).to_have_count(1)
    await expect(again.locator("[data-resumed]")).to_have_count(0)


async def test_what_happened_between_two_pages_is_marked(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    tab = await alice(open_tab)
    run = await tab.pane.ask(questions["long"])
    await expect(answer(run)).not_to_be_empty()
    watcher = await open_tab()
    await watcher.pane.log_in("Alice")
    thread = await tab.page.get_by_role("textbox", name="Thread").input_value()
    await tab.page.goto("about:blank")
    await watcher.pane.choose(thread=thread)
    await watcher.pane.press("Stop")
    await expect_ended(watcher.pane.runs.first, "cancelled")
    await tab.page.go_back()
    again = tab.pane.runs.first
    await expect_ended(again, "cancelled")
    await expect(again.locator("[data-resumed-step]")).to_have_attribute(
        "data-step", "agent_completed"
    )
    await expect(tab.pane.root.locator(".notice")).to_contain_text("came meanwhile")


async def test_five_seconds_without_a_network_lose_nothing(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    tab = await alice(open_tab)
    tab.tolerated.append("ERR_INTERNET_DISCONNECTED")
    run = await tab.pane.ask(questions["slow"])
    await expect(answer(run)).not_to_be_empty()
    banner = tab.page.locator("#offline")
    await tab.page.context.set_offline(True)
    went = time.monotonic()
    await expect(banner).to_contain_text("You are offline")
    await expect(tab.pane.pill).to_have_text("Offline")
    await tab.page.wait_for_timeout(max(0.0, went + OFFLINE_SECONDS - time.monotonic()) * 1000)
    await tab.page.context.set_offline(False)
    await expect(banner).to_be_hidden()
    await tab.pane.expect_live()
    await expect_ended(run)
    await expect_steps(run)
    await expect(tab.pane.runs).to_have_count(1)


async def test_a_question_that_waits_for_the_network_is_not_lost_in_silence(
    open_tab: OpenTab,
) -> None:
    """Whoever goes to another thread takes the connection away that it waits for."""
    tab = await alice(open_tab)
    tab.tolerated.append("ERR_INTERNET_DISCONNECTED")
    await tab.page.context.set_offline(True)
    await expect(tab.pane.pill).to_have_text("Offline")
    await tab.pane.question.fill("are you there?")
    await tab.pane.question.press("Enter")
    await expect(tab.pane.root.locator(".question-note")).to_have_text("Sending…")
    await tab.pane.press("New thread")
    notice = tab.pane.root.locator(".notice", has_text="are you there?")
    await expect(notice).to_contain_text("may not have been sent")
    await tab.page.context.set_offline(False)
    await tab.pane.expect_live()
    await expect(notice).to_be_visible()


class ShortTokens:
    """The demo's login with tokens that expire before the page has asked anything."""

    def session(self) -> dict[str, Any]:
        people = [{"id": "alice", "name": "Alice"}]
        return {"users": people, "agents": ["analyst"], "samples": []}

    def token(self, user: str) -> dict[str, Any] | None:
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        return {"token": token(user, ttl_seconds=EXPIRING_SECONDS + 2), "expires_at": expires}


@pytest.fixture
def fleet(redis_server: Redis, prefix: str) -> Iterator[Fleet]:
    with running_fleet(redis_server, RUNCAST_PREFIX=prefix) as fleet:
        fleet.worker("agents_sdk.demo:worker")
        yield fleet


@pytest.fixture
async def visit(chromium: "Browser") -> AsyncIterator[Callable[[str], Awaitable[Tab]]]:
    """A page of some other gateway than the demo's."""
    tabs: list[Tab] = []

    async def go(address: str) -> Tab:
        tabs.append(Tab(await (await chromium.new_context()).new_page(), f"{address}/"))
        tabs[-1].tolerated.append("/demo/session")
        await tabs[-1].go()
        return tabs[-1]

    yield go
    for tab in tabs:
        await tab.expect_no_complaints()


async def test_an_expiring_token_is_renewed_and_the_connection_stays(
    settings: Settings, fleet: Fleet, visit: Callable[[str], Awaitable[Tab]]
) -> None:
    async with Gateway(settings, demo=ShortTokens()) as gateway:
        tab = await visit(f"http://127.0.0.1:{gateway.port}")
        sockets: list[str] = []
        tab.page.on("websocket", lambda socket: sockets.append(socket.url))
        await tab.pane.log_in("Alice")
        connections = len(sockets)
        run = await tab.pane.ask("slowly: 3 1 4 1 5 9 2 6")
        frames = tab.pane.root.locator("details.frames")
        await frames.locator("> summary").click()
        renewed = frames.locator("[data-type=auth_refresh][data-direction=out]")
        await expect(renewed.nth(1)).to_be_attached()
        await renewed.first.locator("summary").click()
        await expect(renewed.first.locator("pre")).to_contain_text('"token": "•••"')
        await expect_ended(run)
        await expect(frames.locator("[data-type=error]")).to_have_count(0)
        assert len(sockets) == connections
        tab.tolerated.append("ERR_CONNECTION_REFUSED")  # the gateway ends before its page does


async def test_a_killed_gateway_is_found_again_when_it_is_back(
    fleet: Fleet, visit: Callable[[str], Awaitable[Tab]]
) -> None:
    base, process = fleet.gateway_process()
    tab = await visit(base)
    tab.tolerated.append("WebSocket connection to")
    await tab.page.get_by_label("Access token").fill(token("alice"))
    await tab.page.get_by_role("button", name="Connect").click()
    await tab.pane.expect_live()
    await tab.pane.choose(thread=new_thread())
    run = await tab.pane.ask("slowly: 3 1 4 1 5 9 2 6 5 3 5 8 9 7 9 3 2 3 8 4")
    await expect(answer(run)).not_to_be_empty()
    process.end(signal.SIGKILL)
    await expect(tab.pane.pill).to_have_attribute("data-state", "waiting")
    fleet.gateway_process(port=int(base.rpartition(":")[2]))
    await tab.pane.expect_live()
    await expect_ended(run)
    await expect_steps(run)
    await expect(tab.pane.runs).to_have_count(1)
    await expect(tab.pane.root.locator(".question-text")).to_have_count(1)


async def test_threads_are_listed_and_can_be_left_and_come_back_to(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    tab = await open_tab()
    await tab.pane.log_in("Alice")
    threads = tab.page.get_by_role("navigation", name="Threads")
    first, second = f"first {new_thread()}", f"second {new_thread()}"
    for words in (first, second):
        await tab.pane.press("New thread")
        await tab.pane.expect_live()
        await expect(threads.locator("[aria-current]")).to_have_text("Empty thread")
        await expect_ended(await tab.pane.ask(words))
        await expect(threads.locator("[aria-current]")).to_contain_text(words)
    await threads.get_by_role("button", name=first).click()
    await tab.pane.expect_live()
    await expect(tab.pane.root.locator(".question-text")).to_have_text([first])
    await expect(tab.pane.question).to_be_focused()
    await tab.page.reload()
    await tab.pane.expect_live()
    await expect(threads.locator("[aria-current]")).to_contain_text(first)
    await expect(tab.pane.root.locator(".question-text")).to_have_text([first])
    other = Tab(await tab.page.context.new_page(), tab.address)
    await other.go()
    await other.pane.log_in("Alice")
    listed = other.page.get_by_role("navigation", name="Threads").get_by_role("button")
    await expect(listed.filter(has_text=second)).to_be_visible()
    await other.page.close()


async def test_threads_of_another_browser_are_listed_too(open_tab: OpenTab) -> None:
    """The server knows them by their names; what was said in one names it once it is opened."""
    tab = await alice(open_tab)
    thread = await tab.page.get_by_role("textbox", name="Thread").input_value()
    words = f"from elsewhere {thread}"
    await expect_ended(await tab.pane.ask(words))
    other = await open_tab()
    await other.pane.log_in("Alice")
    threads = other.page.get_by_role("navigation", name="Threads")
    listed = threads.get_by_title(f"Thread {thread}")
    await expect(listed).to_contain_text(thread)
    await listed.click()
    await expect(other.pane.root.locator(".question-text")).to_have_text([words])
    await expect(threads.locator("[aria-current]")).to_contain_text(words)
