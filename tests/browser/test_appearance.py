"""The chat page on phones, in the dark, and without a mouse."""

from collections.abc import Awaitable, Callable

import pytest

pytest.importorskip("playwright", reason="the browser tests need the extra `browser`")

from playwright.async_api import expect

from tests.browser.panes import Tab, expect_ended, new_thread

OpenTab = Callable[..., Awaitable[Tab]]

TOO_WIDE = """() => [...document.querySelectorAll("body *")]
  .filter((node) => !node.closest(".samples, .drawings, .value") && node.checkVisibility())
  .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
  .map((node) => node.outerHTML.slice(0, 120))"""

OPEN_ALL = """() => {
  for (const one of document.querySelectorAll(".threads, .scope, .frames")) one.open = true;
}"""

# Where the first letter of an element's text is, as a share of the element's width.
FIRST_LETTER = """(node) => {
  const range = document.createRange();
  range.setStart(node.firstChild, 0);
  range.setEnd(node.firstChild, 1);
  const [letter, box] = [range.getBoundingClientRect(), node.getBoundingClientRect()];
  return (letter.left - box.left) / box.width;
}"""

# Contrast of every visible text with what is painted behind it (WCAG 2.2, 1.4.3).
TOO_FAINT = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const backdrop = (node) => {
    for (; node; node = node.parentElement) {
      const color = rgba(getComputedStyle(node).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = [];
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !node.checkVisibility()) continue;
    if (node.closest("noscript")) continue;
    const [one, other] = [light(rgba(getComputedStyle(node).color)), light(backdrop(node))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${texts.currentNode.data.slice(0, 40)}`);
  }
  return faint;
}"""


@pytest.mark.parametrize("view", ["", "?view=side-by-side"])
async def test_nothing_is_wider_than_a_phone(
    open_tab: OpenTab, questions: dict[str, str], view: str
) -> None:
    tab = await open_tab(view, width=375)
    if view:
        await tab.person("Alice").expect_live()
        pane = tab.person("Alice")
    else:
        assert await tab.run_in_page(TOO_WIDE) == []
        await tab.pane.log_in()
        pane = tab.pane
    await pane.choose("Factory", level="Strict", thread=new_thread())
    run = await pane.ask(questions["fail"] + " " + "unbroken" * 20)
    await expect_ended(run)
    assert await tab.run_in_page("document.documentElement.scrollWidth") == 375
    assert await tab.run_in_page(TOO_WIDE) == []


@pytest.mark.parametrize("size", [(375, 667), (640, 400)], ids=["a phone", "a laptop at 200 %"])
async def test_nothing_lies_over_the_composer_when_all_is_open(
    open_tab: OpenTab, size: tuple[int, int]
) -> None:
    """Where the window was too low for it, the frames did, and it could not be clicked."""
    tab = await open_tab(width=size[0])
    await tab.page.set_viewport_size({"width": size[0], "height": size[1]})
    await tab.pane.log_in()
    await tab.run_in_page(OPEN_ALL)
    ask, frames = [await tab.page.locator(each).bounding_box() for each in (".ask", ".frames")]
    assert ask
    assert frames
    assert ask["y"] + ask["height"] <= frames["y"] + 1
    await tab.page.get_by_label("Your question").click()


async def test_text_of_each_language_begins_where_it_does(open_tab: OpenTab) -> None:
    """Arabic and Hebrew stood at the left, with their full stops before them."""
    tab = await open_tab()
    await tab.pane.log_in()
    await tab.pane.choose("Factory", level="Strict", thread=new_thread())
    for words, begins_right in (("مرحبا بالعالم.", True), ("Hello, world.", False)):
        await expect_ended(await tab.pane.ask(words))
        asked = tab.page.locator(".question-text").last
        await expect(asked).to_have_text(words)
        assert (await asked.evaluate(FIRST_LETTER) > 0.5) is begins_right


async def test_side_by_side_stacks_on_a_phone(open_tab: OpenTab) -> None:
    tab = await open_tab("?view=side-by-side", width=375)
    boxes = [await tab.person(name).root.bounding_box() for name in ("Alice", "Bob")]
    assert boxes[0]
    assert boxes[1]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_can_be_read_in_the_light_and_in_the_dark(
    open_tab: OpenTab, questions: dict[str, str], scheme: str
) -> None:
    tab = await open_tab("?view=side-by-side", color_scheme=scheme)
    background = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 128"
    assert await tab.run_in_page(background) is (scheme == "light")
    for name in ("Alice", "Bob"):
        pane = tab.person(name)
        await pane.choose(thread=new_thread())
        await expect_ended(await pane.ask(questions["fail"]))
        await pane.press("Drop connection")
        assert await tab.run_in_page(TOO_FAINT) == []
        await pane.press("Come back")
        await pane.expect_live()
    assert await tab.run_in_page(TOO_FAINT) == []


async def test_the_theme_can_be_chosen_and_is_remembered(open_tab: OpenTab) -> None:
    tab = await open_tab(color_scheme="light")
    button = tab.page.get_by_role("button", name="Dark theme")
    await expect(button).to_have_attribute("aria-pressed", "false")
    await button.click()
    await expect(button).to_have_attribute("aria-pressed", "true")
    await tab.page.reload()
    await expect(button).to_have_attribute("aria-pressed", "true")
    assert await tab.run_in_page("getComputedStyle(document.documentElement).colorScheme") == "dark"


async def test_all_of_it_works_without_a_mouse(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    tab = await open_tab()
    keys = tab.page.keyboard
    person = tab.page.get_by_role("button", name="Alice")
    await expect(person).to_be_visible()
    for _ in range(10):
        await keys.press("Tab")
        if await person.evaluate("(node) => node === document.activeElement"):
            break
    await expect(person).to_be_focused()
    assert await person.evaluate("(node) => getComputedStyle(node).outlineStyle") == "solid"
    await keys.press("Enter")
    await expect(tab.pane.question).to_be_focused()
    await tab.pane.expect_live()
    before = await tab.pane.runs.count()
    head, line = questions["long"].splitlines()
    await keys.type(head)
    await keys.press("Shift+Enter")
    await keys.type(line)
    await expect(tab.pane.question).to_have_value(questions["long"])
    await keys.press("Enter")
    await expect(tab.pane.question).to_have_value("")
    run = tab.pane.runs.nth(before)
    stop = run.get_by_role("button", name="Stop")
    await expect(stop).to_be_visible()
    for _ in range(20):
        await keys.press("Shift+Tab")
        if await stop.evaluate("(node) => node === document.activeElement"):
            break
    await expect(stop).to_be_focused()
    await keys.press("Enter")
    await expect_ended(run, "cancelled")


async def test_screen_readers_are_told_what_is_what(open_tab: OpenTab) -> None:
    tab = await open_tab()
    await tab.pane.log_in()
    page = tab.page
    for role, name in (
        ("main", None),
        ("banner", None),
        ("navigation", "View"),
        ("region", "Chat of Alice"),
        ("log", "Conversation"),
        ("textbox", "Your question"),
        ("form", "Ask"),
    ):
        await expect(page.get_by_role(role, name=name, exact=True)).to_be_visible()  # type: ignore[arg-type]
    await expect(tab.pane.pill).to_have_attribute("role", "status")
    unnamed = "() => [...document.querySelectorAll('button, input, select, textarea, a')]"
    unnamed += ".filter((node) => node.checkVisibility() && !node.ariaLabel && !node.labels?.length"
    unnamed += " && !node.textContent.trim()).map((node) => node.outerHTML)"
    assert await tab.run_in_page(unnamed) == []


async def test_being_offline_is_said(open_tab: OpenTab) -> None:
    tab = await open_tab()
    banner = tab.page.get_by_text("You are offline.")
    await tab.pane.log_in()
    await tab.page.context.set_offline(True)
    await expect(banner).to_be_visible()
    await tab.page.context.set_offline(False)
    await expect(banner).to_be_hidden()
    await tab.pane.expect_live()
