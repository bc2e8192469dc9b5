#!/usr/bin/env python3
"""Writes the tables and diagrams of these pages, the browser's types, and the documents for tools.

Between ``<!-- generated: NAME -->`` and ``<!-- end -->`` a page belongs to this program. Run it
after a change of one of the tables: ``python docs/generate.py``. It prints the pages that it
changed; ``tests/unit/test_docs.py`` fails while a page is stale.
Long, because each table is a short function of its own and they are listed in one place.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import yaml

DOCS: Final = Path(__file__).resolve().parent
ROOT: Final = DOCS.parent
BENCHMARK: Final = ROOT / "tests" / "benchmarks" / "results" / "published.json"
"""What `make bench ARGS=--publish` stored."""
ALERTS: Final = ROOT / "compose" / "prometheus" / "alerts.yml"
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

# After the path is set, so that the program runs in a checkout that is not installed.
from agents_sdk.metrics import METRICS as WORKER_METRICS  # noqa: E402
from broker.channels import SCOPES, Keys, Owner, Scope  # noqa: E402
from broker.config import ENV_PREFIX, Settings  # noqa: E402
from broker.events import LIFECYCLE, PAYLOADS  # noqa: E402
from broker.lifecycle import TRANSITIONS, State  # noqa: E402
from broker.limits import LIMITS  # noqa: E402
from broker.metrics import Row  # noqa: E402
from compose.grafana import dashboard  # noqa: E402
from compose.kubernetes import alerts as kubernetes_alerts  # noqa: E402
from compose.redis import rights  # noqa: E402
from docs import generate_scaling, generate_schemas, generate_types, log_events  # noqa: E402
from docs.tables import NOTHING, table  # noqa: E402
from gateway.close_codes import CLOSE_CODES  # noqa: E402
from gateway.handshake import CREDENTIALS, PARAMETERS, ROUTES  # noqa: E402
from gateway.metrics import FLEET, METRICS, OWN  # noqa: E402
from tests.benchmarks import targets  # noqa: E402

_SECTION: Final = re.compile(
    r"(?P<open><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<close><!-- end -->)", re.DOTALL
)
_ANY_PARTITION: Final = re.compile(r"\{\d+\}")
_JSON_NAMES: Final = {
    str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "list",
    object: "any JSON",
}  # fmt: skip


def payloads() -> str:
    """Event → fields, from the rules that the SDK checks."""

    def fields(rule: Mapping[str, tuple[type, ...]]) -> str:
        return ", ".join(f"`{name}` ({_json(types)})" for name, types in rule.items()) or NOTHING

    return table(
        ("type", "payload, always", "payload, optional"),
        (
            (f"`{name}`", fields(rule.always), fields(rule.optional))
            for name, rule in PAYLOADS.items()
        ),
    )


def lifecycle() -> str:
    """The state machine as a diagram."""
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, event), after in TRANSITIONS.items():
        edges.setdefault((state, after), []).append(event)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.QUEUED}"]
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in edges.items()]
    return "\n".join([*lines, f"    {State.COMPLETED} --> [*]", "```"])


def transitions() -> str:
    """The state machine as a table: what each event does in each state."""
    kinds = list(dict.fromkeys([*LIFECYCLE, *(event for _, event in TRANSITIONS)]))
    return table(
        ("state", *(f"`{kind}`" for kind in kinds)),
        (
            (f"**{state}**", *(str(TRANSITIONS.get((state, kind), "refused")) for kind in kinds))
            for state in State
        ),
    )


def scopes() -> str:
    """(mode, level) → scope, and the channel's log key."""
    keys, owner = Keys(), Owner("TENANT", "USER")
    names = {
        Scope.USER: "",
        Scope.THREAD: "THREAD",
        Scope.RUN: "RUN",
        Scope.CONNECTION: "CONNECTION",
    }
    return table(
        ("mode", "isolation_level", "scope", "the channel's log"),
        (
            (f"`{mode}`", f"`{level}`" if level else NOTHING, f"`{scope}`",
             f"`{_key(keys.channel(owner, scope, names[scope]).log)}`")
            for (mode, level), scope in SCOPES.items()
        ),
    )  # fmt: skip


def parameters() -> str:
    """Query parameter → modes in which it has a meaning."""
    every = list(dict.fromkeys(mode for modes in PARAMETERS.values() for mode in sorted(modes)))
    rows = [
        (f"`{name}`", *("yes" if mode in modes else "refused" for mode in sorted(every)))
        for name, modes in PARAMETERS.items()
    ]
    rows += [(f"`{name}`", *["see authentication"] * len(every)) for name in sorted(CREDENTIALS)]
    return table(("parameter", *(f"`{mode}`" for mode in sorted(every))), rows)


def routes() -> str:
    """Path → mode."""
    return table(
        ("path", "mode"),
        (
            (f"`{path}`", f"`{mode}`" if mode else "as the parameter `mode` says")
            for path, mode in ROUTES.items()
        ),
    )


def close_codes() -> str:
    """The close codes and what a client does next."""
    return table(
        ("code", "name, also the reason sent", "reconnect?"),
        ((str(row.code), row.name, str(row.reconnect)) for row in CLOSE_CODES.values()),
    )


def settings() -> str:
    """Every setting with its default and meaning."""
    rows = []
    for name, info in Settings.model_fields.items():
        default = info.default
        if default is None or default in ((), {}):
            shown = "none"
        elif isinstance(default, tuple):
            shown = f"`{','.join(default)}`"
        elif isinstance(default, bool):
            shown = f"`{str(default).lower()}`"
        else:
            shown = f"`{default}`"
        rows.append(
            (f"`{ENV_PREFIX}{name.upper()}`", f"`{name}`", shown, _code(info.description or ""))
        )
    return table(("environment", "in a TOML file", "default", "what it is"), rows)


def limits() -> str:
    """Every limit: its name, its setting, whether tenants share it, how it is refused."""
    return table(
        ("name", "what", "setting", "default", "shared by a tenant", "refused as"),
        (
            (
                f"`{name}`",
                limit.what,
                f"`{ENV_PREFIX}{limit.setting.upper()}`",
                str(Settings.model_fields[limit.setting].default),
                "yes" if limit.shared else NOTHING,
                f"`{limit.code}`",
            )
            for name, limit in LIMITS.items()
        ),
    )


def redis_keys() -> str:
    """Every key name, from the one module that makes them."""
    keys, owner = Keys(), Owner("TENANT", "USER")
    partition = keys.partition(owner)
    channel = keys.channel(owner, Scope.THREAD, "ID").log.decode().replace(":thread:", ":SCOPE:")
    channels = [
        (channel, "Stream: a channel's retained events, oldest trimmed"),
        (channel.replace(":log:", ":live:"), "Pub/sub channel: what is appended, and text"),
        (channel.replace(":log:", ":open:"), "Set: the channel's open runs"),
    ]  # fmt: skip
    made: list[tuple[str, Callable[..., bytes]]] = [
        (_key(keys.run(partition, "RUN")), Keys.run),
        (_key(keys.text(partition, "RUN")), Keys.text),
        (_key(keys.leases(partition)), Keys.leases),
        (_key(keys.message(owner, "MESSAGE")), Keys.message),
        (_key(keys.thread(owner, "THREAD")), Keys.thread),
        (_key(keys.runs(owner)), Keys.runs),
        (_key(keys.threads(owner)), Keys.threads),
        (_key(keys.seats(owner)), Keys.seats),
        (_key(keys.bucket(owner, "LIMIT")), Keys.bucket),
        (_key(keys.connection(owner, "CONNECTION")), Keys.connection),
        (_key(keys.turns(owner, "CONNECTION")), Keys.turns),
        (_key(keys.revoked_user(owner)), Keys.revoked_user),
        (_key(keys.revoked_token("TENANT", "JTI")), Keys.revoked_token),
        (_key(keys.ticket("DIGEST")), Keys.ticket),
        (_key(keys.webhooks_wanted(partition)), Keys.webhooks_wanted),
        (_key(keys.webhooks_outbox(partition)), Keys.webhooks_outbox),
        (_key(keys.webhooks_aside(partition)), Keys.webhooks_aside),
        (_key(keys.requests("AGENT")), Keys.requests),
        (_key(keys.control("NODE")), Keys.control),
    ]
    rows = [(f"`{_key(name.encode())}`", *_kind(text)) for name, text in channels]
    rows += [(f"`{name}`", *_kind(_first_line(method))) for name, method in made]
    for name, member in vars(Keys).items():
        if isinstance(member, property):
            rows.append((f"`{_key(getattr(keys, name))}`", *_kind(_first_line(member))))
    return table(("key", "type", "what"), rows)


def redis_rights() -> str:
    """Who may touch which keys and channels, and by which scripts."""

    def column(role: str, right: str, name: str) -> str:
        return "yes" if name in rights.RIGHTS[role][right] else NOTHING

    roles = list(rights.RIGHTS)
    parts = []
    for right, head in (("keys", "key"), ("channels", "channel"), ("scripts", "script")):
        names = dict.fromkeys(each for role in roles for each in rights.RIGHTS[role][right])
        shown = "{}" if right == "scripts" else "rc:{}"
        rows = [
            (f"`{shown.format(name)}`", *(column(role, right, name) for role in roles))
            for name in names
        ]
        parts.append(table((head, *roles), rows))
    return "\n\n".join(parts)


def redis_cluster_rights() -> str:
    """What each user needs besides on a Cluster."""
    rows = [
        (role, f"`{' '.join(f'+{each}' for each in right['cluster'])}`")
        for role, right in rights.RIGHTS.items()
    ]
    return table(("user", "add"), rows)


def performance() -> str:
    """The published benchmark: on what it was measured, and each target with its figure."""
    found = json.loads(BENCHMARK.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    measured = table(("what", "reach", "measured", ""), targets.rows(found["scenarios"]))
    return (
        f"{found['date'][:10]}, commit {found['commit']}, {found['cores']} cores of "
        f"{found['cpu']}, Linux {found['kernel']}, Python {found['python']}, "
        f"{found['redis_server']}, {versions}.\n"
        f"\n{measured}"
    )


def _scaling(section: generate_scaling.Section) -> str:
    return section(json.loads(BENCHMARK.read_text(encoding="utf-8"))["scenarios"])


def metrics(rows: Iterable[Row]) -> str:
    """Name, kind, labels and meaning."""
    return table(
        ("metric", "kind", "labels", "what"),
        (
            (f"`{row.name}`", row.kind, ", ".join(f"`{each}`" for each in row.labels) or NOTHING,
             row.what)
            for row in rows
        ),
    )  # fmt: skip


def logged() -> str:
    """Every line that is logged."""
    return table(
        ("event", "program", "level", "fields", "what it means"),
        (
            (
                f"`{name}`",
                line.program,
                ", ".join(sorted(line.levels)),
                ", ".join(f"`{each}`" for each in line.fields) or NOTHING,
                log_events.MEANINGS[name],
            )
            for name, line in sorted(log_events.found().items())
        ),
    )


def alerts() -> str:
    """Every alert: how urgent it is, what it says, and when."""
    return table(
        ("alert", "", "what", "when"),
        (
            (
                f"[{rule['alert']}](#{rule['alert'].lower()})",
                rule["labels"]["severity"],
                rule["annotations"]["summary"],
                f"`{rule['expr']}`" + (f" for {rule['for']}" if "for" in rule else ""),
            )
            for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
            for rule in group["rules"]
        ),
    )


SECTIONS: Final[Mapping[str, Callable[[], str]]] = {
    "payloads": payloads,
    "lifecycle": lifecycle,
    "transitions": transitions,
    "scopes": scopes,
    "parameters": parameters,
    "routes": routes,
    "close-codes": close_codes,
    "settings": settings,
    "limits": limits,
    "redis-keys": redis_keys,
    "redis-rights": redis_rights,
    "redis-cluster-rights": redis_cluster_rights,
    "performance": performance,
    **{name: partial(_scaling, section) for name, section in generate_scaling.SECTIONS.items()},
    "metrics-gateway": lambda: metrics(METRICS[row.name] for row in OWN),
    "metrics-fleet": lambda: metrics(FLEET),
    "metrics-worker": lambda: metrics(WORKER_METRICS.values()),
    "alerts": alerts,
    "log-events": logged,
}
"""The name in a page's marker → what stands there."""


def pages() -> list[Path]:
    """Every page of the documentation, the ones outside of this folder included."""
    outside = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*outside, *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "compose").rglob("*.md"))]


def generated(text: str) -> str:
    """A page's text with its generated sections as the code is now. KeyError: unknown name."""

    def fill(match: re.Match[str]) -> str:
        return f"{match['open']}{SECTIONS[match['name']]()}\n{match['close']}"

    return _SECTION.sub(fill, text)


FILES: Final[Mapping[Path, Callable[[], str]]] = {
    ROOT / "compose" / "redis" / "users.acl": rights.acl_file,
    ROOT / "compose" / "grafana" / "dashboards" / "runcast.json": dashboard.dashboard,
    ROOT / "compose" / "kubernetes" / "monitoring" / "alerts.yaml": kubernetes_alerts.alerts,
    **generate_schemas.FILES,
}
"""Files that are generated as a whole, and from what."""


def main() -> None:
    """Bring every page and file up to date."""
    for page in [*pages(), *FILES]:
        before = page.read_text(encoding="utf-8") if page.exists() else ""
        after = FILES[page]() if page in FILES else generated(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"{page.relative_to(ROOT)}\n")
    types = generate_types.event_types()
    if generate_types.FILE.read_text(encoding="utf-8") != types:
        generate_types.FILE.write_text(types, encoding="utf-8")
        sys.stdout.write(f"{generate_types.FILE.relative_to(ROOT)}\n")


def _key(raw: bytes) -> str:
    return _ANY_PARTITION.sub("{p}", raw.decode())


def _json(types: tuple[type, ...]) -> str:
    if types == (int, float):
        return "number"
    return " or ".join(_JSON_NAMES[each] for each in types)


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0].rstrip(".").replace("``", "`")


def _kind(text: str) -> tuple[str, str]:
    kind, _, what = text.partition(": ")
    return kind.lower(), what


def _code(text: str) -> str:
    return text.replace("?token=", "`?token=`")


if __name__ == "__main__":
    main()
