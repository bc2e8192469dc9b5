"""The page of "How to build a chat page", as it stands there, on the demo's origin."""

import json
import urllib.request
from collections.abc import Awaitable, Callable

import pytest

pytest.importorskip("playwright", reason="the browser tests need the extra `browser`")

from playwright.async_api import Route, expect

from tests.browser.panes import Tab
from tests.support.snippets import snippet


async def test_the_page_of_the_documentation_works(
    open_tab: Callable[..., Awaitable[Tab]], demo: str
) -> None:
    prose = "Ten words of this, and its answer takes ten seconds."
    text = snippet("docs/how-to/build-a-chat-page.md", "chat.html")

    async def token(route: Route) -> None:
        body = json.dumps({"user": "bob"}).encode()
        with urllib.request.urlopen(f"{demo}demo/token", data=body, timeout=30) as response:
            await route.fulfill(body=json.load(response)["token"])

    tab = await open_tab()
    await tab.page.route("**/token", token)
    await tab.page.route(
        "**/chat.html", lambda route: route.fulfill(body=text, content_type="text/html")
    )
    await tab.page.goto(f"{demo}chat.html")
    await expect(tab.page.get_by_role("status")).to_have_text("live")
    ask = tab.page.get_by_role("textbox", name="Question")
    await ask.fill("slowly: 3 1 4 1 5")
    await ask.press("Enter")
    run = tab.page.locator("#runs li")
    await expect(run.locator("p").first).to_have_text("slowly: 3 1 4 1 5")
    await expect(run.locator("p").nth(1)).to_contain_text("I read")
    await tab.page.reload()
    await expect(run.locator("p").nth(1)).to_contain_text("I read 5 numbers.")
    await expect(run.get_by_role("button")).to_be_hidden()
    await ask.fill(f"slowly: {prose}")
    await ask.press("Enter")
    await run.nth(1).get_by_role("button", name="Stop").click()
    await expect(run.nth(1).get_by_role("button", name="Stop")).to_be_hidden()
