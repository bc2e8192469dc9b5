/**
 * The client as a program, driven by a test in Python: `node drive.js '{"url", "token", "mode", …}'`. Each line on
 * standard output is one thing that happened; a line "stop" on standard input ends the asking, its end the program.
 */

import { createInterface } from "node:readline";
import { WebSocket } from "ws";
import { RuncastClient } from "../../../gateway/web/runcast.js";

const { token, asks, ...options } = JSON.parse(process.argv[2]);
const tell = (what, value) => process.stdout.write(`${JSON.stringify([what, value])}\n`);

/** A real socket that says what it was asked for. */
class ToldSocket extends WebSocket {
  constructor(address, protocols) {
    super(address, protocols);
    tell("connection", { after: new URL(address).searchParams.get("after") });
  }
}

/** The same of an event stream; posts are no connections. */
function toldFetch(address, init) {
  const { pathname, searchParams } = new URL(address);
  if (pathname.endsWith("/sse")) tell("connection", { after: searchParams.get("after") });
  return fetch(address, init);
}

const chat = new RuncastClient({ ...options, token: async () => token, WebSocket: ToldSocket, fetch: toldFetch, storage: null });
chat.on("*", ({ direction, frame }) => tell(direction, frame));
chat.on("state", ({ state }) => tell("state", state));
const ended = new Map();
const types = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed", "agent_delta", "user_message", "resync"];
for (const type of types) chat.on(type, (event, { origin } = {}) => origin !== "local" && tell("told", event));
chat.on("agent_delta", (event, { text }) => tell("text", [event.run_id, text, chat.text(event.run_id)]));
chat.on("agent_completed", ({ run_id: run, payload }) => {
  tell("response", [run, payload.response, chat.text(run)]);
  ended.get(run)?.();
  ended.set(run, () => {});
});
chat.connect();

let asking = true;
createInterface({ input: process.stdin }).on("line", () => { asking = false; }).on("close", () => chat.close());
while (asking && asks) {
  const { run_id: run } = await chat.send(asks.content, { agent: asks.agent });
  tell("accepted", run);
  if (!ended.has(run)) await new Promise((over) => { ended.set(run, over); });
}
tell("finished", null);
