"""What is to be reached, as one literal table, and how a stored result is judged by it.

Pure: the documentation reads it too. A result is what ``__main__`` stores: under ``scenarios`` a
scenario's name → system → figures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Scenarios = Mapping[str, Mapping[str, Any]]

FLOOR: Final = "floor"
JOINING: Final = "floor, joined writes"
OURS: Final = "Runcast"
TWO: Final = "Runcast --processes 2"
PLAIN: Final = "aiohttp + redis-py"
BARE: Final = "aiohttp + hiredis, no guarantees"
SOCKETIO: Final = "Socket.IO, streams adapter"
JETSTREAM: Final = "NATS JetStream"
PEERS: Final = (PLAIN, SOCKETIO, JETSTREAM)
RECOVERING: Final = (SOCKETIO, JETSTREAM)
KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure as it is read, and whether it is good enough."""

    measured: str
    reached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line of the table. ``judge`` raises KeyError when its scenario was not measured."""

    scenario: str
    what: str
    reach: str
    judge: Callable[[Scenarios], Verdict]


def _bulk(scenarios: Scenarios, system: str, *, redis: bool = False) -> float:
    """CPU in microseconds per delivery; infinite for a peer that could not be installed."""
    found = scenarios["delivery"][system]
    if "missing" in found:
        return float("inf")
    us: float = found["bulk"]["delivering_us"]
    return us + (found["bulk"]["redis_us"] if redis else 0.0)


def _delivery(scenarios: Scenarios) -> Verdict:
    ours, floor = _bulk(scenarios, OURS), _bulk(scenarios, FLOOR)
    lowest = min(_bulk(scenarios, peer) for peer in PEERS)
    return Verdict(
        f"{ours:.1f} µs = {ours / floor:.2f} × {floor:.1f}; the lowest peer {lowest:.1f}",
        ours <= 1.5 * floor and ours < lowest,
    )


def _published(scenarios: Scenarios) -> Verdict:
    ours, floor = _bulk(scenarios, OURS, redis=True), _bulk(scenarios, FLOOR)
    lowest = min(_bulk(scenarios, peer, redis=True) for peer in RECOVERING)
    return Verdict(
        f"{ours:.1f} µs = {ours / floor:.2f} × {floor:.1f}; the lowest with recovery {lowest:.1f}",
        ours <= 3 * floor and ours < lowest,
    )


def _script(scenarios: Scenarios) -> Verdict:
    found = scenarios["script"]["publish.lua"]
    rate = found["events_per_core"]
    return Verdict(f"{rate:,.0f}/s, {found['redis_us']:.1f} µs each", rate >= 60_000)


def _fanout(scenarios: Scenarios) -> Verdict:
    ours, floor = (scenarios["fanout"][name]["delivering_us"] for name in (OURS, JOINING))
    return Verdict(f"{ours:.2f} µs = {ours / floor:.2f} × {floor:.2f}", ours <= 1.5 * floor)


def _latency(rate: str) -> Callable[[Scenarios], Verdict]:
    def judge(scenarios: Scenarios) -> Verdict:
        ours, floor = (scenarios["delivery"][name][rate] for name in (OURS, FLOOR))
        p50, p99 = (ours[each] / floor[each] for each in ("p50_ms", "p99_ms"))
        return Verdict(
            f"p50 {ours['p50_ms']:.2f} ms = {p50:.1f} ×, p99 {ours['p99_ms']:.2f} ms = {p99:.1f} ×,"
            f" p99.9 {ours['p999_ms']:.1f} ms",
            p50 <= 2 and p99 <= 3 and ours["p999_ms"] <= 10,
        )

    return judge


def _idle(scenarios: Scenarios) -> Verdict:
    found = scenarios["idle"]
    ours = found[OURS]["bytes_each"] / KIB
    lowest = min(found[peer].get("bytes_each", float("inf")) / KIB for peer in PEERS)
    return Verdict(f"{ours:.1f} KB; the lowest peer {lowest:.1f}", ours <= 5 and 2 * ours < lowest)


def _connect(name: str, most_ms: float) -> Callable[[Scenarios], Verdict]:
    def judge(scenarios: Scenarios) -> Verdict:
        ours, floor = (scenarios["connect"][each][name] for each in (OURS, FLOOR))
        return Verdict(f"{ours:.3f} ms; the floor {floor:.3f}", ours <= most_ms)

    return judge


def _disturbed(scenarios: Scenarios) -> Verdict:
    found = scenarios["connect"][OURS]
    quiet, busy = found["quiet_p99_ms"], found["connecting_p99_ms"]
    return Verdict(f"{busy:.2f} ms against {quiet:.2f} = {busy / quiet:.1f} ×", busy <= 2 * quiet)


def _level(scenarios: Scenarios) -> Verdict:
    found = scenarios["resume"][OURS]
    return Verdict(
        f"{found['clients']:,} clients level after {found['level_seconds']:.1f} s,"
        f" every event once, {found['redis_commands']:.1f} Redis commands each",
        found["level_seconds"] <= 5,
    )


def _resumed(scenarios: Scenarios) -> Verdict:
    found = scenarios["resume"][OURS]
    ours, allowed = found["resumed_ms"], found["allowed_ms"]
    return Verdict(f"{ours:.2f} ms of {allowed:.2f} allowed", ours <= allowed)


def _confirmed(scenarios: Scenarios) -> Verdict:
    rate = scenarios["publisher"]["SDK"]["events_per_second"]
    return Verdict(f"{rate:,.0f}/s", rate >= 15_000)


def _awaited(scenarios: Scenarios) -> Verdict:
    found = scenarios["publisher"]["SDK"]
    ours, bare = found["sdk_us"], found["bare_us"]
    return Verdict(f"{ours:.0f} µs = {ours / bare:.1f} × {bare:.0f}", ours <= 2 * bare)


def _over_http(scenarios: Scenarios) -> Verdict:
    found = scenarios["over_http"][OURS]
    rate = {size: 1e6 / found[size]["gateway_us"] for size in ("1", "10", "100")}
    return Verdict(
        f"{rate['100']:,.0f}/s; ten in a request {rate['10']:,.0f}, alone {rate['1']:,.0f}",
        rate["100"] >= 15_000,
    )


def _text(scenarios: Scenarios) -> Verdict:
    found = scenarios["text"][OURS]
    gateway, redis = found["gateway_cores"], found["redis_cores"]
    return Verdict(
        f"gateway {gateway:.2f}, Redis {redis:.2f} cores"
        f" at {found['tokens_per_second']:,} tokens/s",
        gateway < 1 and redis < 1,
    )


def _processes(scenarios: Scenarios) -> Verdict:
    one, two = (scenarios["processes"][name] for name in (OURS, TWO))
    ratio = two["capacity"] / one["capacity"]
    return Verdict(
        f"{ratio:.2f} × by CPU per delivery ({one['delivering_us']:.1f} and"
        f" {two['delivering_us']:.1f} µs); {two['cores']} cores for everything",
        ratio >= 1.8,
    )


def _growth(by: str) -> Callable[[Scenarios], Verdict]:
    def judge(scenarios: Scenarios) -> Verdict:
        found = scenarios["growth"][OURS][by]
        sizes = sorted((each for each in found if each.isdigit()), key=int)
        name = "net_us" if by == "connections" else "delivering_us"
        costs = [found[size][name] for size in sizes]
        ratio = costs[-1] / costs[0]
        told = f"{costs[0]:.1f} → {costs[-1]:.1f} µs = {ratio:.2f} ×"
        if by == "connections":
            ends = (sizes[0], sizes[-1])
            first, last = (100 * found[size]["background_cores"] for size in ends)
            told += (
                f"; beside it, heartbeats and looks at logs {first:.0f} → {last:.0f} % of a core"
            )
        if by == "users":
            told += f"; Redis {found['redis_bytes_per_user'] / KIB:.1f} KB per user"
        if by == "history":
            told += f"; Redis {found['redis_bytes_per_event']:.0f} bytes per retained event"
        return Verdict(told, ratio <= 1.2)

    return judge


def _crowded(scenarios: Scenarios) -> Verdict:
    found = scenarios["growth"][OURS]["connections"]
    sizes = sorted(found, key=int)
    first, last = (found[size]["connect_ms"] for size in (sizes[0], sizes[-1]))
    return Verdict(f"{first:.2f} → {last:.2f} ms = {last / first:.1f} ×", last <= 1.5 * first)


TARGETS: Final[Sequence[Target]] = (
    Target(
        scenario="delivery",
        what="delivery: gateway CPU per event",
        reach="≤ 1.5 × floor, below every peer",
        judge=_delivery,
    ),
    Target(
        scenario="delivery",
        what="published and delivered: gateway + Redis CPU per event",
        reach="≤ 3 × floor, below every peer with recovery",
        judge=_published,
    ),
    Target(
        scenario="script",
        what="the publish script, per Redis core",
        reach="≥ 60,000 events/s",
        judge=_script,
    ),
    Target(
        scenario="fanout",
        what="fan-out to 1,000 sockets: CPU per delivery",
        reach="≤ 1.5 × the floor that joins writes",
        judge=_fanout,
    ),
    Target(
        scenario="delivery",
        what="publish to receive at 2,000 events/s",
        reach="p50 ≤ 2 ×, p99 ≤ 3 × floor, p99.9 ≤ 10 ms",
        judge=_latency("2000"),
    ),
    Target(
        scenario="delivery",
        what="publish to receive at 5,000 events/s",
        reach="p50 ≤ 2 ×, p99 ≤ 3 × floor, p99.9 ≤ 10 ms",
        judge=_latency("5000"),
    ),
    Target(
        scenario="idle",
        what="idle connection: gateway memory",
        reach="≤ 5 KB, less than half of every peer",
        judge=_idle,
    ),
    Target(
        scenario="connect",
        what="connect, token seen before: CPU",
        reach="≤ 0.25 ms",
        judge=_connect("known_ms", 0.25),
    ),
    Target(
        scenario="connect",
        what="connect, new HS256 token: CPU",
        reach="≤ 0.35 ms",
        judge=_connect("new_ms", 0.35),
    ),
    Target(
        scenario="connect",
        what="others' p99 under 500 connects/s",
        reach="≤ 2 × without",
        judge=_disturbed,
    ),
    Target(
        scenario="resume",
        what="everybody returns in 2 s, 50 events behind",
        reach="all level within 5 s, nothing lost",
        judge=_level,
    ),
    Target(
        scenario="resume",
        what="resume: CPU per client",
        reach="≤ 3 × a plain connect + the deliveries",
        judge=_resumed,
    ),
    Target(
        scenario="publisher",
        what="publisher: confirmed events of one worker process",
        reach="≥ 15,000/s",
        judge=_confirmed,
    ),
    Target(
        scenario="publisher",
        what="one awaited publish",
        reach="≤ 2 × a bare EVALSHA round trip",
        judge=_awaited,
    ),
    Target(
        scenario="over_http",
        what="over HTTP, a hundred events in a request: per gateway core",
        reach="≥ 15,000 events/s",
        judge=_over_http,
    ),
    Target(
        scenario="text",
        what="streamed text: 1,000 runs at 50 tokens/s",
        reach="gateway and Redis below one core each",
        judge=_text,
    ),
    Target(
        scenario="processes",
        what="two gateway processes against one",
        reach="≥ 1.8 ×",
        judge=_processes,
    ),
    Target(
        scenario="growth",
        what="growth: cost per delivery, 1,000 → 15,000 connections",
        reach="≤ 1.2 ×",
        judge=_growth("connections"),
    ),
    Target(
        scenario="growth",
        what="growth: CPU of a connect, 1,000 → 15,000 connections",
        reach="≤ 1.5 ×",
        judge=_crowded,
    ),
    Target(
        scenario="growth",
        what="growth: cost per delivery, 1,000 → 100,000 users with a log",
        reach="≤ 1.2 ×",
        judge=_growth("users"),
    ),
    Target(
        scenario="growth",
        what="growth: cost per delivery, 1,000 retained events per user",
        reach="≤ 1.2 ×",
        judge=_growth("history"),
    ),
)
"""In the order in which they are shown."""


def judged(scenarios: Scenarios) -> list[tuple[Target, Verdict]]:
    """Every target whose scenario was measured."""
    return [(target, target.judge(scenarios)) for target in TARGETS if target.scenario in scenarios]


def rows(scenarios: Scenarios) -> list[tuple[str, str, str, str]]:
    """The same, as text: what, reach, measured, reached."""
    return [
        (
            target.what,
            target.reach,
            verdict.measured,
            "reached" if verdict.reached else "not reached",
        )
        for target, verdict in judged(scenarios)
    ]
