"""What a person sees on the chat page, against a running demo."""

import re
from collections.abc import Awaitable, Callable

import pytest

pytest.importorskip("playwright", reason="the browser tests need the extra `browser`")

from playwright.async_api import Locator, expect

from tests.browser.panes import Pane, Tab, expect_ended, expect_steps, new_thread

OpenTab = Callable[..., Awaitable[Tab]]


async def alice(open_tab: OpenTab, *, thread: str | None = None, width: int = 1280) -> Pane:
    tab = await open_tab(width=width)
    await tab.pane.log_in("Alice")
    await tab.pane.choose(thread=thread or new_thread())
    return tab.pane


def items(run: Locator) -> Locator:
    return run.locator("> .items > .item")


async def told(run: Locator) -> list[str]:
    """The timeline as text, without the marks of resuming."""
    lines = await items(run).all_inner_texts()
    return [" ".join(re.sub(r"\bresumed\b", " ", line).split()) for line in lines]


async def test_a_run_shows_all_five_steps_and_its_answer(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    pane = await alice(open_tab)
    run = await pane.ask(questions["plain"])
    await expect_ended(run)
    await expect_steps(run)
    await expect(run.locator("> .answer .text")).not_to_be_empty()
    await expect(run.locator(".tool[data-state=succeeded]").first).to_be_visible()
    await expect(pane.root.locator(".question-text")).to_have_text([questions["plain"]])


async def test_a_failing_tool_is_shown_as_failed_and_the_run_goes_on(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    pane = await alice(open_tab)
    run = await pane.ask(questions["fail"])
    failed = run.locator(".tool[data-state=failed]").first
    await expect(failed).to_be_visible()
    await expect(failed.locator(".error")).not_to_be_empty()
    await expect_ended(run)
    await expect(run.locator("> .answer .text")).not_to_be_empty()


async def test_a_run_can_be_stopped(open_tab: OpenTab, questions: dict[str, str]) -> None:
    pane = await alice(open_tab)
    run = await pane.ask(questions["long"])
    await expect(run.locator(".tool").first).to_be_visible()
    await pane.press("Stop")
    await expect_ended(run, "cancelled")
    await expect(run.locator("> .run-head .status")).to_have_text("cancelled")
    await expect(run.get_by_role("button", name="Stop")).to_be_hidden()
    await expect(run.locator(".tool[data-state=running]")).to_have_count(0)


async def test_who_comes_back_gets_what_happened_meanwhile_marked_and_once(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    thread = new_thread()
    pane = await alice(open_tab, thread=thread)
    await expect_ended(await pane.ask(questions["plain"]))
    await pane.press("Drop connection")
    await expect(pane.pill).to_have_text("Dropped")
    other = await alice(open_tab, thread=thread)
    seen = await other.ask(questions["fail"])
    await expect_ended(seen)
    await expect(pane.runs).to_have_count(1)
    await pane.press("Come back")
    await pane.expect_live()
    missed = pane.runs.nth(1)
    await expect_ended(missed)
    await expect_steps(missed)
    await expect(pane.root.locator(".notice", has_text="You are back.")).to_be_visible()
    count = await items(missed).count()
    await expect(items(missed).and_(pane.page.locator("[data-resumed]"))).to_have_count(count)
    await expect(pane.runs.nth(0).locator("[data-resumed]")).to_have_count(0)
    await expect(pane.root.locator(".question-text")).to_have_text(
        [questions["plain"], questions["fail"]]
    )
    assert await told(missed) == await told(seen)
    again = await pane.ask(questions["plain"])
    await expect_ended(again)
    await expect(again.locator("[data-resumed]")).to_have_count(0)


async def test_a_connection_dropped_in_the_middle_of_a_run_loses_and_doubles_nothing(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    thread = new_thread()
    watcher = await alice(open_tab, thread=thread)
    pane = await alice(open_tab, thread=thread)
    run = await pane.ask(questions["long"])
    seen = watcher.runs.first
    answers = [one.locator("> .answer .text") for one in (run, seen)]
    await expect(answers[0]).not_to_be_empty()
    await pane.press("Drop connection")
    await expect_ended(seen)
    await expect(run).to_have_attribute("data-status", "open")
    await pane.press("Come back")
    await expect_ended(run)
    for one in (run, seen):
        await expect_steps(one)
    await expect(run.locator("[data-step=agent_completed]")).to_have_attribute(
        "data-resumed-step", "true"
    )
    await expect(seen.locator("[data-resumed-step]")).to_have_count(0)
    assert await told(run) == await told(seen)
    assert await answers[0].inner_text() == await answers[1].inner_text()
    await expect(pane.root.locator(".question-text")).to_have_count(1)


async def test_a_reload_shows_the_conversation_again(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    pane = await alice(open_tab)
    run = await pane.ask(questions["plain"])
    await expect_ended(run)
    before = await told(run)
    await pane.page.reload()
    await pane.expect_live()
    await expect_ended(pane.runs.first)
    assert await told(pane.runs.first) == before
    await expect(pane.root.locator("[data-resumed]")).to_have_count(0)


async def test_two_people_side_by_side_see_nothing_of_each_other(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    tab = await open_tab("?view=side-by-side")
    thread = new_thread()
    people = {name: tab.person(name) for name in ("Alice", "Bob")}
    for pane in people.values():
        await pane.expect_live()
        await pane.choose(thread=thread)
    words = {"Alice": "amber", "Bob": "basalt"}
    runs = [await pane.ask(f"{questions['plain']} {words[name]}") for name, pane in people.items()]
    for run in runs:
        await expect_ended(run)
        await expect_steps(run)
    for name, pane in people.items():
        await expect(pane.runs).to_have_count(1)
        await expect(pane.root).to_contain_text(words[name])
        (foreign,) = (word for other, word in words.items() if other != name)
        assert foreign not in await pane.root.inner_text()


@pytest.mark.parametrize(
    ("mode", "level"),
    [("Factory", "Standard"), ("Factory", "Strict"), ("Isolated", None), ("Legacy", None)],
)
async def test_every_mode_shows_a_run(
    open_tab: OpenTab, questions: dict[str, str], mode: str, level: str | None
) -> None:
    tab = await open_tab()
    await tab.pane.log_in("Alice")
    thread = new_thread() if mode == "Factory" else None
    await tab.pane.choose(mode, level=level, thread=thread)
    run = await tab.pane.ask(questions["plain"])
    await expect_ended(run)
    await expect_steps(run)
    await expect(tab.pane.runs).to_have_count(1)
    await expect(run.locator("> .answer .text")).not_to_be_empty()
    await expect(tab.pane.root.locator(".question-text")).to_have_text([questions["plain"]])


@pytest.mark.parametrize(("mode", "level"), [("Factory", "Strict"), ("Isolated", None)])
async def test_a_narrow_scope_is_taken_up_again(
    open_tab: OpenTab, questions: dict[str, str], mode: str, level: str | None
) -> None:
    tab = await open_tab()
    await tab.pane.log_in("Alice")
    await tab.pane.choose(mode, level=level, thread=new_thread() if level else None)
    run = await tab.pane.ask(questions["slow"])
    await expect(run.locator(".tool").first).to_be_visible()
    await tab.pane.press("Drop connection")
    await expect(tab.pane.pill).to_have_text("Dropped")
    await tab.pane.press("Come back")
    await expect_ended(run)
    await expect_steps(run)
    await expect(tab.pane.runs).to_have_count(1)


async def test_what_people_write_is_text(open_tab: OpenTab) -> None:
    pane = await alice(open_tab)
    markup = '<img src="/nowhere" onerror="alert(1)"> <b>bold</b>'
    run = await pane.ask(markup)
    await expect(pane.root.locator(".question-text")).to_have_text(markup)
    await expect_ended(run)
    await expect(pane.root.locator(".stream img, .stream b")).to_have_count(0)


async def test_the_frames_are_listed_without_secrets(
    open_tab: OpenTab, questions: dict[str, str]
) -> None:
    pane = await alice(open_tab)
    await pane.choose("Isolated")
    run = await pane.ask(questions["plain"])
    await expect_ended(run)
    frames = pane.root.locator("details.frames")
    await frames.locator("> summary").click()
    for direction, kind in (("in", "agent_completed"), ("out", "user_message")):
        frame = frames.locator(f".frame[data-direction={direction}][data-type={kind}]")
        await expect(frame).to_have_count(1)
    welcome = frames.locator(".frame[data-type=connection_established]")
    await welcome.locator("summary").click()
    await expect(welcome.locator("pre")).to_contain_text('"secret": "•••"')


async def test_without_a_demo_a_token_is_asked_for(
    open_tab: OpenTab, demo: str, questions: dict[str, str]
) -> None:
    tab = await open_tab()
    ask = "async () => (await (await fetch('/demo/token', {method: 'POST', body: JSON.stringify"
    ask += "({user: 'alice'}), headers: {'Content-Type': 'application/json'}})).json()).token"
    token = await tab.run_in_page(ask)
    tab.tolerated.append("/demo/session")
    await tab.page.route("**/demo/session", lambda route: route.fulfill(status=404))
    await tab.page.goto(demo)
    await tab.page.get_by_label("Access token").fill(token)
    await tab.page.get_by_role("button", name="Connect").click()
    await tab.pane.expect_live()
    await tab.pane.choose(thread=new_thread())
    run = await tab.pane.ask(questions["plain"])
    await expect_ended(run)


async def test_a_refused_token_leads_back_to_the_login(open_tab: OpenTab, demo: str) -> None:
    tab = await open_tab()
    tab.tolerated.append("/demo/session")
    await tab.page.route("**/demo/session", lambda route: route.fulfill(status=404))
    await tab.page.goto(demo)
    await tab.page.get_by_label("Access token").fill("eyJhbGciOiJIUzI1NiJ9.e30.AAAA")
    await tab.page.get_by_role("button", name="Connect").click()
    await expect(tab.page.get_by_role("alert")).to_contain_text("Log in again")
    await expect(tab.page.get_by_label("Access token")).to_be_focused()
