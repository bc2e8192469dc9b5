"""The operators' console, in a real browser, on a fleet of real gateways, workers and Redis."""

import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

pytest.importorskip("playwright", reason="the browser tests need the extra `browser`")

from playwright.async_api import Browser, Locator, expect

from broker.channels import Keys, Owner, Scope
from broker.redis.broker import Broker
from broker.redis.records import AgentSpec, RunRequest
from broker.redis.topology import new_client
from tests.browser.panes import Tab
from tests.browser.test_appearance import TOO_FAINT, TOO_WIDE
from tests.support.clients import Client, ready_is
from tests.support.servers import (
    OPERATOR_KEY,
    WORKER_KEY,
    Fleet,
    Process,
    Redis,
    running_fleet,
    running_redis,
    token,
)
from tests.support.slow_reader import slow_reader

ADMIN = "/api/v1/admin"
SECRET = "what only the user may read"
REFUSED = "the server responded with a status of 40"
"""A browser complains of every refusal; the page tells it in words."""

SILENT = "net::ERR_"
"""And of a gateway that is gone."""

NOT_READY = "the server responded with a status of 503"
"""And of one that cannot reach Redis."""


@dataclass
class System:
    """Two gateways and a worker."""

    fleet: Fleet
    first: str
    second: str
    processes: tuple[Process, Process]
    prefix: str

    async def nodes(self) -> dict[str, str]:
        """Address → node id: each gateway names itself first."""
        return {base: (await told(base, "/nodes"))["nodes"][0]["node_id"] for base in self.bases}

    @property
    def bases(self) -> tuple[str, str]:
        return self.first, self.second


@contextmanager
def running(redis: Redis, prefix: str, **settings: str) -> Iterator[System]:
    with running_fleet(redis, RUNCAST_PREFIX=prefix, **settings) as fleet:
        (first, one), (second, other) = fleet.gateway_process(), fleet.gateway_process()
        fleet.worker()
        yield System(fleet, first, second, (one, other), prefix)


@pytest.fixture(scope="module")
def system(redis_server: Redis) -> Iterator[System]:
    """For those who harm nobody: they share it, with users of their own."""
    with running(redis_server, f"console{time.time_ns()}") as found:
        yield found


async def told(base: str, path: str, credential: str = OPERATOR_KEY) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {credential}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.get(f"{base}{ADMIN}{path}") as response,
    ):
        body: dict[str, Any] = await response.json()
        return body


class Console(Tab):
    """The page as an operator knows it."""

    async def log_in(self, credential: str = OPERATOR_KEY) -> None:
        await self.page.get_by_label("Operator token").fill(credential)
        await self.page.get_by_role("button", name="Log in").click()

    async def expect_live(self) -> None:
        await expect(self.page.locator("#link")).to_have_text("Live")

    def row(self, table: str, text: str) -> Locator:
        return self.page.get_by_role("table", name=table).get_by_role("row").filter(has_text=text)

    async def confirm(self, button: str, *, reason: str = "") -> None:
        dialog = self.page.get_by_role("dialog")
        await expect(dialog).to_be_visible()
        if reason:
            await dialog.get_by_label("Reason").fill(reason)
        await dialog.get_by_role("button", name=button).click()
        await expect(dialog).to_be_hidden()

    async def expect_result(self, text: str) -> None:
        results = self.page.get_by_role("log", name="Results")
        await expect(results.filter(has_text=text)).to_be_visible()


OpenConsole = Callable[..., Awaitable[Console]]


@pytest.fixture
def beneath() -> Iterator[ExitStack]:
    """What a test's own consoles stand on: they ask on until they are judged; it ends then."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
async def open_console(chromium: Browser, beneath: ExitStack) -> AsyncIterator[OpenConsole]:
    """`await open_console(base, width=…, color_scheme=…)`: without errors, until the test ends."""
    del beneath  # ends later
    tabs: list[Console] = []

    async def open_one(base: str, *, width: int = 1280, **options: Any) -> Console:
        context = await chromium.new_context(
            viewport={"width": width, "height": 900}, reduced_motion="reduce", **options
        )
        tabs.append(Console(await context.new_page(), f"{base}/console"))
        await tabs[-1].go()
        return tabs[-1]

    yield open_one
    for tab in tabs:
        await tab.expect_no_complaints()


# --- who may see it


async def test_a_wrong_token_is_told_in_words_and_a_right_one_shows_the_fleet(
    system: System, open_console: OpenConsole
) -> None:
    console = await open_console(system.first)
    page = console.page
    fleet, login = page.locator("#fleet"), page.get_by_role("region", name="Who is operating?")
    await expect(login).to_be_visible()
    await expect(page.locator("#link")).to_have_text("Not logged in")
    console.tolerated.append(REFUSED)
    for wrong in ("nonsense", token("alice"), WORKER_KEY, token("op", operator=True)[:-2]):
        await console.log_in(wrong)
        await expect(page.get_by_role("alert").filter(has_text="not an operator")).to_be_visible()
        await expect(page.get_by_label("Operator token")).to_be_focused()
        await expect(fleet).to_be_hidden()
    await console.log_in("schlüssel")
    await expect(page.get_by_role("alert").filter(has_text="ASCII")).to_be_visible()

    await console.log_in(token("op", operator=True))
    await console.expect_live()
    await expect(login).to_be_hidden()
    for node_id in (await system.nodes()).values():
        await expect(console.row("Gateways", node_id)).to_contain_text("ready")
    await expect(console.row("Agents", "five")).to_contain_text("0 of 100")
    (worker,) = (await told(system.first, "/workers"))["workers"]
    await expect(console.row("Workers", worker["worker_id"])).to_contain_text("serving")
    assert page.url == f"{system.first}/console"

    await page.reload()  # it stays in the tab
    await console.expect_live()
    await page.get_by_role("button", name="Log out").click()
    await expect(fleet).to_be_hidden()
    kept = "JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])"
    assert await console.run_in_page(kept) == '[{},{},""]'
    await page.reload()
    await expect(page.get_by_label("Operator token")).to_be_visible()


async def test_an_ordinary_users_token_is_refused_everywhere(system: System) -> None:
    paths = ("/nodes", "/agents", "/workers", "/runs", "/connections/slow", "/audit", "/limits")
    for path in paths:
        problem = await told(system.first, path, token("alice"))
        assert (problem["status"], problem["code"]) == (403, "operator_required"), path
    headers = {"Authorization": f"Bearer {token('alice')}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.get(f"{system.first}/ws/stats") as stats,
        http.get(f"{system.first}/console") as page,
    ):
        assert stats.status == 403
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        nothing = await page.text()
    assert not any(node_id in nothing for node_id in (await system.nodes()).values())


async def test_who_is_no_operator_any_more_is_logged_out(
    system: System, open_console: OpenConsole
) -> None:
    console = await open_console(system.first)
    await console.log_in(token("sacked", operator=True))
    await console.expect_live()
    console.tolerated.append(REFUSED)
    headers = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{system.first}{ADMIN}/revocations", json={"user_id": "sacked"}) as response,
    ):
        assert response.status == 202
    await expect(console.page.get_by_role("alert").filter(has_text="logged out")).to_be_visible()
    await expect(console.page.locator("#fleet")).to_be_hidden()


async def test_an_operator_of_a_tenant_sees_that_tenant(
    system: System, open_console: OpenConsole
) -> None:
    hers, others = token("zoe", tenant="acme"), token("yan", tenant="emca")
    async with Client(system.first, token=hers) as one, Client(system.second, token=others) as two:
        mine = await one.ask("hello", agent="waits")
        theirs = await two.ask("hello", agent="waits")
        console = await open_console(system.first)
        console.tolerated.append(REFUSED)
        await console.log_in(token("op", operator=True, tenant="acme"))
        await expect(console.row("Runs in flight", mine)).to_contain_text("zoe (acme)")
        await expect(console.row("Runs in flight", theirs)).to_have_count(0)
        await expect(console.page.get_by_role("heading", name="Gateways")).to_be_hidden()
        await console.page.get_by_label("Run id").fill(theirs)
        await console.page.get_by_label("Run id").press("Enter")
        await expect(console.page.get_by_text(f"No run {theirs} is known")).to_be_visible()
        await one.send("stop_agent", {"run_id": mine})
        await two.send("stop_agent", {"run_id": theirs})
        await one.completed(mine)
        await two.completed(theirs)


async def test_the_demos_figures_are_open_and_the_rest_is_the_operators(
    demo: str, open_console: OpenConsole
) -> None:
    console = await open_console(demo.rstrip("/"))
    await console.expect_live()
    figures = console.page.locator("#figures")
    await expect(figures).to_contain_text("Runs in flight")
    await expect(console.page.get_by_label("Operator token")).to_be_visible()
    await expect(console.page.get_by_role("heading", name="Gateways")).to_be_hidden()


# --- what it shows and does


async def test_a_run_is_watched_as_it_goes_on_and_stopped(
    system: System, open_console: OpenConsole
) -> None:
    console = await open_console(system.first)
    page = console.page
    await console.log_in()
    async with Client(system.second, "watched") as client:
        content = {"count": 100_000, "per_second": 4, "secret": SECRET}
        run_id = await client.ask(content, agent="beats", thread_id="t1")
        row = console.row("Runs in flight", run_id)
        await expect(row).to_contain_text("running")
        await row.get_by_role("button", name="Watch").click()
        panel = page.get_by_role("region", name=f"Run {run_id}")
        events = panel.get_by_role("log", name="Events of the run").get_by_role("listitem")
        await expect(events.nth(2)).to_contain_text("thinking")
        await expect(events.nth(0)).to_contain_text("s message")
        await expect(events.nth(1)).to_contain_text("started")
        await expect(events.nth(12)).to_be_visible()  # it grows
        await expect(panel).to_contain_text("watched")
        assert SECRET not in await page.content()

        await panel.get_by_role("button", name="Stop run…").click()
        await console.confirm("Cancel")
        await panel.get_by_role("button", name="Stop run…").click()
        await console.confirm("Stop the run", reason="runs away")
        end = await client.completed(run_id)
        assert (end["payload"]["status"], client.close_code) == ("cancelled", None)
        await console.expect_result(f"Run {run_id} was asked to stop")
        await expect(panel.get_by_text("It has ended")).to_be_visible()
        await expect(events.last).to_contain_text("cancelled")
        await expect(panel.get_by_role("button", name="Stop run…")).to_be_hidden()
        await expect(row).to_have_count(0)
        entry = console.row("What operators did last", run_id)
        await expect(entry).to_contain_text("stopped run")
        await expect(entry).to_contain_text("runs away")
        await expect(entry).to_have_count(1)  # the one that was called off is not on record

        await page.get_by_role("button", name="Close").click()
        await expect(panel).to_be_hidden()
        await page.get_by_label("Run id").fill(run_id)
        await page.get_by_role("button", name="Find").click()
        await expect(panel).to_contain_text("cancelled")
        await expect(events.last).to_contain_text("cancelled")


async def test_tools_are_shown_with_how_long_they_took(
    system: System, open_console: OpenConsole
) -> None:
    async with Client(system.first, "tools") as client:
        run_id = await client.ask("hello", agent="five")
        await client.completed(run_id)
    console = await open_console(system.second)
    await console.log_in()
    await console.page.get_by_label("Run id").fill(run_id)
    await console.page.get_by_role("button", name="Find").click()
    events = console.page.get_by_role("log", name="Events of the run")
    await expect(events).to_contain_text("lookup · succeeded · took")
    steps = console.page.get_by_label("The five events").locator("[data-sent=true]")
    await expect(steps).to_have_count(5)


async def test_a_user_is_disconnected_and_nobody_else(
    system: System, open_console: OpenConsole
) -> None:
    console = await open_console(system.first)
    await console.log_in()
    async with (
        Client(system.first, "sent away") as one,
        Client(system.second, "sent away") as two,
        Client(system.second, "stays") as other,
    ):
        for client in (one, two, other):
            await client.first("live")
        form = console.page.get_by_role("form", name="Disconnect a user")
        await form.get_by_label("User id").fill("sent away")
        await form.get_by_role("button", name="Disconnect…").click()
        await expect(console.page.get_by_role("dialog")).to_contain_text("sent away")
        await console.page.keyboard.press("Escape")  # called off
        await form.get_by_role("button", name="Disconnect…").click()
        await console.confirm("Disconnect the user")
        assert [await one.closed(), await two.closed()] == [1001, 1001]
        await console.expect_result("User sent away was disconnected")
        assert other.close_code is None


async def test_a_client_that_does_not_keep_up_is_named(
    system: System, open_console: OpenConsole
) -> None:
    console = await open_console(system.first)
    await console.log_in()
    async with slow_reader(system.second, "sleepy"), Client(system.first, "sleepy") as writer:
        for number in range(60):  # echoes: more than kernels and gateway keep for one socket
            await writer.send(
                "user_message", {"content": "x" * 60_000, "agent": "lazy"}, ref=str(number)
            )
            await writer.reply(str(number))
        row = console.row("Slow clients", "sleepy")
        await expect(row).to_contain_text("does not keep up")
        await expect(row).to_contain_text("MiB")
        problems = console.page.locator("#problems")
        await expect(problems).to_contain_text("sleepy has")
        await expect(problems).to_contain_text((await system.nodes())[system.second])
        await row.get_by_role("button", name="Disconnect…").click()
        await console.confirm("Disconnect the user")
        assert await writer.closed() == 1001
        await expect(row).to_have_count(0)


async def test_what_others_named_is_text(system: System, open_console: OpenConsole) -> None:
    """Ids and names of anybody, in every place where they are shown."""
    bad = "<img src=x onerror=alert(1)>"
    client = new_client(system.fleet.redis.url, name="test")
    await client.start()
    broker = Broker(client, keys=Keys(system.prefix))
    channel = broker.keys.channel(Owner(bad, bad), Scope.USER)
    request = RunRequest(
        run_id=bad, owner=channel.owner, channel=channel, thread_id=bad, agent=bad, content=bad
    )
    await broker.register(request, epoch_ms=time.time_ns() // 1_000_000)
    await broker.announce([AgentSpec(name=bad)])
    await client.stop()
    console = await open_console(system.first)
    page = console.page
    alerts: list[str] = []
    page.on("dialog", lambda dialog: alerts.append(dialog.message))
    await console.log_in()
    row = console.row("Runs in flight", bad)
    await expect(row).to_contain_text(f"{bad} ({bad})")
    await expect(console.row("Agents", bad)).to_be_visible()
    await expect(page.locator("#problems")).to_contain_text(f"Agent {bad} has no worker")
    await row.get_by_role("button", name=bad).click()
    panel = page.get_by_role("region", name=f"Run {bad}")
    await expect(panel).to_contain_text("s message")
    await panel.get_by_role("button", name="Stop run…").click()
    await expect(page.get_by_role("dialog")).to_contain_text(f"of tenant {bad}")
    await console.confirm("Stop the run", reason=bad)
    await console.expect_result(f"Run {bad} was asked to stop")
    await expect(console.row("What operators did last", bad)).to_be_visible()
    assert await page.locator("img").count() == 0
    assert alerts == []


# --- what becomes of gateways


async def test_a_gateway_is_drained_and_another_is_lost(
    redis_server: Redis, prefix: str, beneath: ExitStack, open_console: OpenConsole
) -> None:
    system = beneath.enter_context(running(redis_server, prefix, RUNCAST_DRAIN_SECONDS="600"))
    third, process = system.fleet.gateway_process()
    nodes = await system.nodes()
    lost = (await told(third, "/nodes"))["nodes"][0]["node_id"]
    console = await open_console(system.first)
    await console.log_in()
    async with Client(system.second) as client, Client(third):
        await client.first("live")
        row = console.row("Gateways", nodes[system.second])
        await expect(row).to_contain_text("ready")
        await row.get_by_role("button", name="Drain…").click()
        await console.confirm("Drain the gateway", reason="new kernel")
        await console.expect_result("drains")
        await expect(row).to_contain_text("draining")
        await expect(row.get_by_role("button", name="Drain…")).to_be_hidden()
        await ready_is(system.second, 503)
        await ready_is(system.first, 200)
        await expect(console.page.locator("#problems")).to_contain_text(
            f"Gateway {nodes[system.second]} is draining"
        )
        process.end(signal.SIGKILL)
        await expect(console.row("Gateways", lost)).to_contain_text("gone")
        await expect(console.page.locator("#problems")).to_contain_text(
            f"Gateway {lost} is gone: last heard at"
        )
        verdict = console.page.locator("#verdict")
        await expect(verdict).to_have_attribute("data-tone", "bad")
    fresh = await open_console(system.first)  # who was not looking when it happened
    await fresh.log_in()
    await expect(fresh.row("Gateways", lost)).to_contain_text("gone")


async def test_without_an_answer_it_says_since_when_and_goes_on_when_there_is_one(
    redis_server: Redis, prefix: str, beneath: ExitStack, open_console: OpenConsole
) -> None:
    system = beneath.enter_context(running(redis_server, prefix))
    console = await open_console(system.first)
    page = console.page
    await console.log_in()
    await console.expect_live()
    node = (await system.nodes())[system.first]
    await expect(console.row("Gateways", node)).to_be_visible()
    console.tolerated.append(SILENT)
    system.processes[0].end(signal.SIGKILL)
    await expect(page.locator("#link")).to_contain_text("Stale since")
    banner = page.get_by_role("alert").filter(has_text="No answer from this gateway")
    await expect(banner).to_contain_text("What is shown is from")
    await expect(page.locator("#verdict")).to_contain_text("Unknown: this is how it was at")
    await expect(console.row("Gateways", node)).to_be_visible()
    await page.get_by_label("User id").fill("alice")
    await page.get_by_role("button", name="Disconnect…").click()
    await console.confirm("Disconnect the user")
    await console.expect_result("not done. No answer from this gateway")
    async with page.expect_request("**/ws/health"):
        await page.get_by_role("button", name="Try now").click()
    console.tolerated.append(NOT_READY)  # as one is that has only begun
    system.fleet.gateway_process(port=int(system.first.rpartition(":")[2]))
    await console.expect_live()
    await expect(banner).to_be_hidden()


async def test_without_redis_it_accuses_nobody_and_fits_on_a_phone(
    prefix: str, beneath: ExitStack, open_console: OpenConsole
) -> None:
    """Gateways and workers of whom nothing was heard because Redis was away were called silent; the
    page was wider than the phone."""
    redis = beneath.enter_context(running_redis())
    system = beneath.enter_context(running(redis, prefix))
    console = await open_console(system.first, width=375)
    page = console.page
    await console.log_in()
    await console.expect_live()
    (worker,) = (await told(system.first, "/workers"))["workers"]
    beats = console.row("Workers", worker["worker_id"])
    await expect(beats).to_contain_text("ago")
    console.tolerated.append(NOT_READY)
    redis.kill()
    await expect(page.locator("#link")).to_contain_text("Stale since")
    assert await console.run_in_page("document.documentElement.scrollWidth") == 375
    assert await console.run_in_page(TOO_WIDE) == []
    await console.run_in_page("void (Date.now = ((then) => () => then() + 90_000)(Date.now))")
    await page.get_by_role("button", name="Try now").click()
    await expect(beats).to_contain_text("1 min")
    await expect(page.locator("#problems")).to_contain_text("Redis does not answer")
    await expect(page.locator("#problems")).not_to_contain_text("silent")


# --- for everybody


async def test_a_chart_without_figures_yet_says_so_on_a_phone(
    system: System, open_console: OpenConsole
) -> None:
    """Its last letters were cut off."""
    console = await open_console(system.first, width=375)
    await console.log_in()
    await console.run_in_page("""async () => {
      const { Chart } = await import("/static/chart.js");
      const rates = document.getElementById("rates"), fresh = rates.cloneNode(false);
      fresh.id = "fresh";
      rates.after(fresh);
      new Chart(fresh, { title: "Fresh", unit: "", series: [] });
    }""")
    told = console.page.locator("#fresh svg > text").filter(has_text="a few seconds")
    await expect(told).to_be_attached()
    text, chart = await told.bounding_box(), await told.locator("xpath=..").bounding_box()
    assert text is not None
    assert chart is not None
    assert chart["x"] <= text["x"]
    assert text["x"] + text["width"] <= chart["x"] + chart["width"]


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_can_be_read_on_a_phone_and_in_the_dark(
    system: System, open_console: OpenConsole, scheme: str, width: int
) -> None:
    async with Client(system.first, f"lóng-{scheme}-{width}-" * 8) as client:
        run_id = await client.ask("hello", agent="waits", thread_id="unbroken" * 20)
        await client.first("tool_executing")
        console = await open_console(system.first, width=width, color_scheme=scheme)
        assert await console.run_in_page(TOO_FAINT) == []
        await console.log_in()
        await console.row("Runs in flight", run_id).get_by_role("button", name="Watch").click()
        await expect(console.page.get_by_role("log", name="Events of the run")).to_contain_text(
            "tool begins"
        )
        await expect(console.page.locator("#rates .series").first).to_be_attached()
        assert await console.run_in_page("document.documentElement.scrollWidth") == width
        assert await console.run_in_page(TOO_WIDE) == []
        assert await console.run_in_page(TOO_FAINT) == []
        await console.page.get_by_role("button", name="Stop run…").click()
        assert await console.run_in_page(TOO_WIDE) == []
        await console.confirm("Stop the run")
        await client.completed(run_id)


async def test_it_works_without_a_mouse_and_says_what_is_what(
    system: System, open_console: OpenConsole
) -> None:
    async with Client(system.first, "keys") as client:
        run_id = await client.ask("hello", agent="waits")
        console = await open_console(system.first)
        page, keys = console.page, console.page.keyboard
        await page.get_by_label("Operator token").focus()
        await keys.type(OPERATOR_KEY)
        await keys.press("Enter")
        row = console.row("Runs in flight", run_id)
        await expect(row).to_be_visible()
        stop = row.get_by_role("button", name="Stop…")
        for _ in range(100):
            await keys.press("Tab")
            if await stop.evaluate("(node) => node === document.activeElement"):
                break
        await expect(stop).to_be_focused()
        assert await stop.evaluate("(node) => getComputedStyle(node).outlineStyle") == "solid"
        await keys.press("Enter")
        await expect(page.get_by_role("button", name="Cancel")).to_be_focused()  # no harm by Enter
        await keys.press("Tab")
        await keys.press("Enter")
        await client.completed(run_id)
        for role, name in (
            ("table", "Gateways"), ("table", "Workers"), ("search", "Find a run"),
            ("form", "Disconnect a user"), ("log", "Results"),
        ):  # fmt: skip
            await expect(page.get_by_role(role, name=name, exact=True)).to_be_visible()  # type: ignore[arg-type]
        await expect(page.get_by_role("img", name="Events, per second")).to_be_visible()
        await expect(page.locator("#verdict")).to_have_attribute("role", "status")
        unnamed = (
            "() => [...document.querySelectorAll('button, input, a')]"
            ".filter((node) => node.checkVisibility() && !node.textContent.trim()"
            " && !node.ariaLabel && !node.labels?.length).map((node) => node.outerHTML)"
        )
        assert await console.run_in_page(unnamed) == []
