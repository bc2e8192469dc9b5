"""A running demo and a real Chromium. Every page that a test opens must end without errors."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

pytest.register_assert_rewrite("tests.browser.panes")

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.browser.panes import Tab

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A page that a test hands over itself counts as one of the internet, and may not connect here.
    "--disable-features=LocalNetworkAccessChecks",
]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "browser":
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(300))
            if CHROMIUM is None:
                why = "no chromium, chromium-browser or google-chrome on PATH"
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the chat page; RUNCAST_TEST_URL names a demo that already runs."""
    if running := os.environ.get("RUNCAST_TEST_URL"):
        yield running
        return
    command = [sys.executable, "-m", "gateway", "demo", "--port", "0"]
    environment = {**os.environ, "RUNCAST_DATA_DIR": str(tmp_path_factory.mktemp("demo"))}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        found = next(
            (m for m in (re.search(r"http://[\w.\[\]:]+", line) for line in lines) if m), None
        )
        assert found, f"the demo printed no address and ended with {process.wait(30)}"
        yield found[0].rstrip("/") + "/"
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="session")
def questions(demo: str) -> dict[str, str]:
    """What the demo offers to ask: `plain`, `fail` (a tool fails) and `slow` (takes seconds).

    And `long`, whose answer takes half a minute: it is still being written when a test acts on it.
    """
    with urllib.request.urlopen(demo + "demo/session", timeout=30) as response:
        samples: list[dict[str, str]] = json.load(response)["samples"]
    asked = {"plain": samples[0]["content"]}
    for kind in ("fail", "slow"):
        fitting = (s["content"] for s in samples if kind in f"{s['title']} {s['content']}".lower())
        asked[kind] = next(fitting)
    columns = [f"column{number}" for number in range(8)]
    asked["long"] = f"slowly: {','.join(columns)}\n{','.join('1' for _ in columns)}"
    return asked


@pytest.fixture
async def chromium() -> AsyncIterator["Browser"]:
    from playwright.async_api import async_playwright, expect  # noqa: PLC0415

    expect.set_options(timeout=60_000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
async def open_tab(
    demo: str, chromium: "Browser"
) -> AsyncIterator[Callable[..., Awaitable["Tab"]]]:
    """`await open_tab(path, width=…, color_scheme=…)`: a page in a browser profile of its own."""
    from tests.browser.panes import Tab  # noqa: PLC0415

    tabs: list[Tab] = []

    async def open_one(path: str = "", *, width: int = 1280, **options: Any) -> Tab:
        context = await chromium.new_context(
            viewport={"width": width, "height": 800}, reduced_motion="reduce", **options
        )
        tabs.append(Tab(await context.new_page(), demo))
        await tabs[-1].go(path)
        return tabs[-1]

    yield open_one
    for tab in tabs:
        await tab.expect_no_complaints()
