"""The chat page as its users know it."""

import itertools
import os
from typing import Any

from playwright.async_api import ConsoleMessage, Locator, Page, expect

_threads = itertools.count(1)

VIOLATIONS = """() => {
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (event) =>
    window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
}"""


def new_thread() -> str:
    """A thread that no other test is on: all of them share the demo."""
    return f"test-{os.getpid()}-{next(_threads)}"


class Pane:
    """One user's chat."""

    def __init__(self, root: Locator) -> None:
        self.root = root
        self.page = root.page
        self.pill = root.locator(".pill")
        self.runs = root.locator(".entry > .run")
        self.question = root.get_by_role("textbox", name="Your question")

    async def log_in(self, name: str = "Alice") -> None:
        await self.root.get_by_role("button", name=name).click()
        await self.expect_live()

    async def expect_live(self) -> None:
        await expect(self.pill).to_have_text("Live")
        # What came before is drawn with the page's next frame.
        await self.page.evaluate("() => new Promise(requestAnimationFrame)")

    async def choose(
        self, mode: str = "Main", *, level: str | None = None, thread: str | None = None
    ) -> None:
        scope = self.root.locator("details.scope")
        if await scope.get_attribute("open") is None:
            await scope.locator("summary").click()
        await self.root.get_by_label("Mode").select_option(mode)
        if level:
            await self.root.get_by_label("Level").select_option(level)
        if thread is not None:
            field = self.root.get_by_role("textbox", name="Thread")
            await field.fill(thread)
            await field.press("Enter")
        await self.expect_live()

    async def ask(self, content: str) -> Locator:
        """Send a question and give its run as soon as it shows."""
        before = await self.runs.count()
        await self.question.fill(content)
        await self.question.press("Enter")
        run = self.runs.nth(before)
        await expect(run).to_be_visible()
        return run

    async def press(self, name: str) -> None:
        await self.root.get_by_role("button", name=name, exact=True).click()


class Tab:
    """One page with one pane, or two side by side."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.pane = Pane(page.locator(".pane").first)
        self.complaints: list[str] = []
        self.tolerated: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("console", self._note)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.text} {message.location.get('url', '')}")

    async def go(self, path: str = "") -> None:
        await self.page.add_init_script(f"({VIOLATIONS})()")
        await self.page.goto(self.address + path)

    def person(self, name: str) -> Pane:
        return Pane(self.page.get_by_role("region", name=f"Chat of {name}"))

    async def run_in_page(self, script: str, argument: Any = None) -> Any:
        return await self.page.evaluate(script, argument)

    async def expect_no_complaints(self) -> None:
        """No error or warning in the console, none uncaught, none of the content policy."""
        violations = await self.page.evaluate("window.violations")
        said = [
            line
            for line in self.complaints + violations
            if not any(part in line for part in self.tolerated)
        ]
        assert said == []


async def expect_steps(run: Locator, *missing: str) -> None:
    """All five steps of a run are reached, but for those named."""
    steps = (
        "agent_started",
        "agent_thinking",
        "tool_executing",
        "tool_completed",
        "agent_completed",
    )
    for step in steps:
        reached = "false" if step in missing else "true"
        shown = run.locator(f"> .steps [data-step={step}]")
        await expect(shown).to_have_attribute("data-reached", reached)
        await expect(shown).to_be_visible()


async def expect_more(text: Locator) -> str:
    """Some text, and then more of it; this."""
    await expect(text).not_to_be_empty()
    before = await text.inner_text()
    await expect(text).not_to_have_text(before, use_inner_text=True)
    more = await text.inner_text()
    assert more.startswith(before)
    return more


async def expect_ended(run: Locator, status: str = "succeeded") -> None:
    await expect(run).to_have_attribute("data-status", status, timeout=60_000)
