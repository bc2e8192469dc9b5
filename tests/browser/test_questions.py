"""A question of an agent on the page; the server is played by the test."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("playwright", reason="the browser tests need the extra `browser`")

from playwright.async_api import expect

from tests.browser.panes import Tab
from tests.browser.test_appearance import TOO_FAINT, TOO_WIDE
from tests.browser.test_client import Link

OpenTab = Callable[..., Awaitable[Tab]]


class Asking:
    """A page that is live on a server of the test's."""

    def __init__(self, tab: Tab, link: Link) -> None:
        self.tab, self.link = tab, link
        self.item = tab.page.locator(".item.input")

    async def ask(self, **payload: Any) -> None:
        fields = {"request_id": "q1", "prompt": "Go on?", "expires_at": "2099-01-01T00:00:00Z"}
        self.link.event("7-0", "agent_started", message="")
        self.link.event("8-0", "input_required", **fields | payload)
        await expect(self.item).to_be_visible()

    async def answered(self) -> Any:
        frame = await self.link.receive("user_input")
        assert {name: frame["payload"][name] for name in ("run_id", "request_id")} == {
            "run_id": "r1",
            "request_id": "q1",
        }
        return frame["payload"]["content"], frame["id"]


@pytest.fixture
def asking(open_tab: OpenTab) -> Callable[..., Awaitable[Asking]]:
    async def open_page(**options: Any) -> Asking:
        tab = await open_tab(**options)
        links: asyncio.Queue[Link] = asyncio.Queue()
        await tab.page.route_web_socket("**/ws**", lambda route: links.put_nowait(Link(route)))
        await tab.page.reload()
        await tab.page.get_by_role("button", name="Alice").click()
        async with asyncio.timeout(30):
            link = await links.get()
        link.welcome()
        link.live()
        await tab.pane.expect_live()
        return Asking(tab, link)

    return open_page


async def test_a_question_is_answered_by_keyboard(
    asking: Callable[..., Awaitable[Asking]],
) -> None:
    page = await asking()
    await page.ask(prompt="Which city?")
    await expect(page.item).to_contain_text("Which city?")
    field = page.item.get_by_role("textbox", name="Your answer")
    await field.fill("Oslo")
    await field.press("Enter")
    content, ref = await page.answered()
    assert content == "Oslo"
    await expect(field).to_be_disabled()
    page.link.send("ok", {}, ref=ref)
    page.link.event("9-0", "user_input", request_id="q1", content="Oslo")
    await expect(field).to_be_hidden()
    await expect(page.item).to_contain_text("Answered: Oslo")


async def test_a_refused_answer_can_be_given_again(
    asking: Callable[..., Awaitable[Asking]],
) -> None:
    page = await asking()
    await page.ask()
    field = page.item.get_by_role("textbox", name="Your answer")
    await field.fill("yes")
    await page.item.get_by_role("button", name="Answer").click()
    _, ref = await page.answered()
    page.link.send("error", {"code": "not_allowed", "message": "Too late."}, ref=ref)
    await expect(page.tab.page.locator(".notice")).to_contain_text("Too late.")
    await expect(field).to_be_focused()
    await expect(field).to_be_enabled()


@pytest.mark.parametrize(
    ("schema", "name", "answer"),
    [({"type": "boolean"}, "No", False), ({"enum": ["small", 2, None]}, "2", 2)],
)
async def test_a_choice_is_one_click(
    asking: Callable[..., Awaitable[Asking]], schema: Any, name: str, answer: Any
) -> None:
    page = await asking()
    await page.ask(schema=schema)
    await page.item.get_by_role("button", name=name, exact=True).click()
    assert (await page.answered())[0] == answer


async def test_a_number_is_a_number(asking: Callable[..., Awaitable[Asking]]) -> None:
    page = await asking()
    await page.ask(schema={"type": "integer", "minimum": 1})
    field = page.item.get_by_role("spinbutton", name="Your answer")
    await field.fill("3")
    await field.press("Enter")
    assert (await page.answered())[0] == 3


async def test_a_question_that_another_tab_answered_or_nobody_is_closed(
    asking: Callable[..., Awaitable[Asking]],
) -> None:
    page = await asking()
    await page.ask()
    page.link.event("9-0", "user_input", request_id="q1", content="from a phone")
    await expect(page.item).to_contain_text("from a phone")
    await expect(page.item.locator("form")).to_be_hidden()
    page.link.event("9-1", "input_required", request_id="q2", prompt="And now?", expires_at="")
    await expect(page.item.nth(1).locator("form")).to_be_visible()
    page.link.event("9-2", "agent_completed", status="failed", response=None, missing=[])
    await expect(page.item.nth(1)).to_contain_text("Not answered.")
    await expect(page.item.nth(1).locator("form")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_question_fits_a_phone_and_can_be_read(
    asking: Callable[..., Awaitable[Asking]], scheme: str
) -> None:
    page = await asking(width=375, color_scheme=scheme)
    words = {"content": "unbroken" * 20, "message_id": "m1", "metadata": {}}
    at = {"run_id": "r1", "thread_id": "chat-1", "timestamp": "2026-11-26T01:00:00Z"}
    page.link.send("user_message", words, id="6-0", **at)
    await page.tab.page.locator("details.threads > summary").click()
    await expect(page.tab.page.locator(".thread[aria-current]")).to_contain_text("unbroken")
    await page.ask(prompt="Shall I delete " + "unbroken" * 12 + "?", schema={"type": "boolean"})
    assert await page.tab.run_in_page(TOO_WIDE) == []
    assert await page.tab.run_in_page(TOO_FAINT) == []
