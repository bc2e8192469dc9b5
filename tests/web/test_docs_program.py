"""The Node programs of the documentation, with their packages as npm would install them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.servers import OPERATOR_KEY, WORKER_KEY, Redis, running_fleet, token
from tests.support.snippets import ROOT, snippet

HERE = Path(__file__).parent

SHOWN = """\
user_message
agent_started
agent_thinking
agent_thinking
tool_executing
(away for a moment)
tool_completed
tool_executing
tool_completed
agent_thinking
agent_completed
"""
UNBROKEN = SHOWN.replace("(away for a moment)\n", "")


def run_program(redis: Redis, folder: Path, text: str, *, earlier: str | None = None) -> str:
    """What the program prints, with a gateway and the demo's worker; it must say nothing else.

    ``earlier``: a program that runs before it against the same gateway.
    """
    modules = folder / "node_modules"
    modules.mkdir()
    for name in ("ws", "eventsource"):
        (modules / name).symlink_to(HERE / "node_modules" / name)
    (modules / "runcast").symlink_to(ROOT / "gateway" / "web")
    with running_fleet(redis, RUNCAST_PREFIX=folder.name) as fleet:
        base = fleet.gateway()
        fleet.worker("agents_sdk.demo:worker")
        url = f"{base}/ws".replace("http", "ws")
        env = {**os.environ, "RUNCAST_URL": url, "BASE": base, "TOKEN": token("alice")}
        env |= {"OPERATOR_KEY": OPERATOR_KEY, "WORKER_KEY": WORKER_KEY}
        for name, program in (("earlier.mjs", earlier), ("program.mjs", text)):
            if program is None:
                continue
            (folder / name).write_text(program, encoding="utf-8")
            done = subprocess.run(
                ["node", str(folder / name)],
                env=env, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.mark.timeout(300)
def test_the_program_of_the_chat_page(redis_server: Redis, tmp_path: Path) -> None:
    program = snippet("docs/how-to/build-a-chat-page.md", "ask.mjs")
    shown = run_program(redis_server, tmp_path, program)
    assert shown.startswith("I read 6 numbers.")


PAGE = "docs/how-to/use-any-client.md"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "earlier", "shown"),
    [
        ("follow.mjs", None, SHOWN),
        ("stream.mjs", None, UNBROKEN),
        ("ticket.mjs", "stream.mjs", UNBROKEN),
    ],
)
def test_the_programs_with_stock_clients(
    redis_server: Redis, tmp_path: Path, name: str, earlier: str | None, shown: str
) -> None:
    before = snippet(PAGE, earlier) if earlier else None
    assert run_program(redis_server, tmp_path, snippet(PAGE, name), earlier=before) == shown


HISTORY = """
const asked = await fetch(`${base}/api/v1/history`, {
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
});
for (const { type, payload } of (await asked.json()).events) {
  console.log(type, payload.response ?? payload.result ?? "");
}
"""


@pytest.mark.timeout(300)
def test_the_program_of_a_worker(redis_server: Redis, tmp_path: Path) -> None:
    program = snippet("docs/how-to/publish-from-any-language.md", "report.mjs")
    shown = run_program(redis_server, tmp_path, program + HISTORY)
    assert shown.splitlines() == [
        "completed",
        "agent_started ",
        "agent_thinking ",
        "tool_executing ",
        "tool_completed 42",
        "agent_completed There are 42 — no more.",
    ]


CLOSED = """
import { EventSource } from "eventsource";
import { WebSocket } from "ws";
const { BASE: base, RUNCAST_URL: url, TOKEN: token, OPERATOR_KEY: key } = process.env;
const Authorization = `Bearer ${token}`;
const live = [];
const socket = new WebSocket(url, { headers: { Authorization } });
live.push(new Promise((done) => {
  socket.on("message", (text) => JSON.parse(text).type === "live" && done());
}));
const ended = new Promise((done) => {
  socket.on("close", (code, reason) => done(`${code} ${reason}`));
});
const stream = new EventSource(`${base}/sse`, {
  fetch: (to, init) => fetch(to, { ...init, headers: { ...init.headers, Authorization } }),
});
let closing, seen;
const refused = new Promise((done) => {
  stream.onerror = ({ code }) => code && done(code);
  live.push(new Promise((done) => {
    stream.onmessage = ({ data, lastEventId }) => {
      const frame = JSON.parse(data);
      if (frame.type === "closing") closing = `${frame.payload.code} ${frame.payload.reason}`;
      if (frame.type === "live") done(seen = lastEventId);
    };
  }));
});
await Promise.all(live);
socket.ping("are you there");
const pong = await new Promise((done) => socket.on("pong", (data) => done(`${data}`)));
await fetch(`${base}/api/v1/admin/revocations`, {
  method: "POST", headers: { Authorization: `Bearer ${key}` }, body: '{"user_id": "alice"}',
});
console.log([pong, await ended, await refused, closing, seen !== ""].join("\\n"));
"""


@pytest.mark.timeout(300)
def test_stock_clients_read_why_they_are_closed(redis_server: Redis, tmp_path: Path) -> None:
    why = "4401 token missing, bad, expired or revoked"
    shown = run_program(redis_server, tmp_path, CLOSED)
    # The stream came back by itself, after its `retry`, and was refused then.
    assert shown.splitlines() == ["are you there", why, "401", why, "true"]


CUT = """
stream.addEventListener("message", ({ data }) => {
  if (JSON.parse(data).type !== "agent_started") return;
  const operator = { Authorization: `Bearer ${process.env.OPERATOR_KEY}` };
  fetch(`${base}/api/v1/admin/users/alice/disconnect`, {
    method: "POST", headers: operator, body: "{}",
  });
});
let opened = 0;
stream.addEventListener("open", () => (opened += 1));
process.on("exit", () => console.log(`opened ${opened} times`));
"""


@pytest.mark.timeout(300)
def test_an_event_source_goes_on_where_it_was_cut(redis_server: Redis, tmp_path: Path) -> None:
    shown = run_program(redis_server, tmp_path, snippet(PAGE, "stream.mjs") + CUT)
    assert shown == f"{UNBROKEN}opened 2 times\n"
