// @vitest-environment happy-dom
/** `useRuncast` in a real React, on a socket of the test's own. */

import { StrictMode, act, createElement, useEffect } from "react";
import { createRoot } from "react-dom/client";
import { afterEach, beforeEach, expect, test } from "vitest";
import { reduceRuns, useRuncast } from "runcast/runcast-react.js";
import { Script, TabStorage, WebSocket, tokenOf, until } from "./support/script.js";

globalThis.IS_REACT_ACT_ENVIRONMENT = true;

let script;
let root;
let seen;

beforeEach(async () => {
  script = await Script.start();
  root = createRoot(document.createElement("div"));
});

afterEach(async () => {
  act(() => root.unmount());
  await script.stop();
});

function Chat({ threadId }) {
  const chat = useRuncast({ url: script.url, WebSocket, storage: new TabStorage(), share: false, token: async () => tokenOf("alice"), threadId });
  useEffect(() => { seen = chat; });
  return createElement("p", null, chat.runs.map((run) => run.text).join());
}

const show = (props = {}) => act(() => root.render(createElement(StrictMode, null, createElement(Chat, props))));
const settle = (look, what) => act(() => until(() => look(), what));

async function live(props) {
  show(props);
  // Strict mode mounts twice: the first client is closed before it has connected.
  const link = (await script.link()).welcome().live();
  await settle(() => seen.connection === "live", "live");
  return link;
}

test("a message, its run, text, tools and end", async () => {
  const link = await live();
  let sent;
  act(() => { sent = seen.send("1 2 3", { id: "m1" }); });
  expect(seen.runs).toMatchObject([{ id: "", status: "sending", message: { id: "m1", content: "1 2 3" } }]);
  await act(() => link.take("user_message"));
  link.event("6-0", "user_message", { content: "1 2 3", message_id: "m1" });
  link.send("run_accepted", { run_id: "r1" }, { ref: "m1" });
  expect((await act(() => sent)).run_id).toBe("r1");
  await settle(() => seen.runs[0].status === "queued", "queued");
  link.event("7-0", "agent_started", { message: "" });
  link.event("8-0", "agent_thinking", { thoughts: "hm", step: 1 });
  link.event("9-0", "tool_executing", { tool: "sum", call_id: "c1", status: "running", parameters: { rows: 3 } });
  link.delta(0, "It is ");
  await settle(() => seen.runs[0].text === "It is ", "text");
  expect(seen.runs).toMatchObject([{ id: "r1", status: "running", thoughts: [{ thoughts: "hm" }], tools: [{ tool: "sum", status: "running" }] }]);
  link.event("9-1", "tool_completed", { tool: "sum", call_id: "c1", success: true, result: 6, duration_ms: 2 });
  link.event("9-2", "agent_completed", { status: "succeeded", response: "It is 6", complete: true, missing: [], duration_ms: 9 });
  await settle(() => seen.runs[0].status === "succeeded", "the end");
  expect(seen.runs).toMatchObject([{ text: "It is 6", tools: [{ status: "succeeded", result: 6, parameters: { rows: 3 } }], message: { content: "1 2 3" } }]);
  expect(seen.runs).toHaveLength(1);
});

test("a question waits for its answer", async () => {
  const link = await live();
  link.event("6-0", "input_required", { request_id: "q1", prompt: "Go on?", expires_at: "later" });
  await settle(() => seen.runs[0]?.status === "waiting", "the question");
  expect(seen.runs[0].question.prompt).toBe("Go on?");
  let answered;
  act(() => { answered = seen.answer("r1", "q1", "yes"); });
  link.send("ok", {}, { ref: (await act(() => link.take("user_input"))).id });
  await act(() => answered);
  expect(seen.runs[0].question).toBeNull();
});

test("a refused message says why", async () => {
  const link = await live();
  let refused;
  act(() => { refused = seen.send("x", { id: "m1" }).catch((error) => error.code); });
  await act(() => link.take("user_message"));
  link.send("error", { code: "queue_full", message: "Later.", retryable: true }, { ref: "m1" });
  expect(await act(() => refused)).toBe("queue_full");
  expect(seen.runs).toMatchObject([{ status: "refused", error: { code: "queue_full" } }]);
});

test("a lost connection shows, and what came meanwhile is marked", async () => {
  const link = await live();
  link.event("6-0", "agent_started", { message: "" });
  await settle(() => seen.runs.length === 1, "the run");
  act(() => link.lose());
  await settle(() => seen.connection !== "live", "the loss");
  (await act(() => script.link())).welcome().event("7-0", "agent_completed", { status: "cancelled", response: null }).live("7-0");
  await settle(() => seen.connection === "live", "live again");
  expect(seen.runs).toMatchObject([{ status: "cancelled", resumed: true }]);
});

test("another thread is another client, and nothing stays open", async () => {
  await live({ threadId: "t1" });
  show({ threadId: "t2" });
  const link = await script.link();
  expect(link.query.thread_id).toBe("t2");
  await until(() => script.open === 1, "one socket");
  act(() => root.render(null));
  await until(() => script.open === 0, "no socket");
});

test("what is not known changes nothing", () => {
  const runs = reduceRuns([], { type: "agent_started", run_id: "r1", payload: {} });
  expect(reduceRuns(runs, { type: "agent_dreaming", run_id: "r1", payload: {} })).toBe(runs);
  const again = reduceRuns(runs, { type: "agent_thinking", run_id: "r1", payload: { thoughts: "x" } });
  expect(runs[0].thoughts).toEqual([]);
  expect(again[0].thoughts).toHaveLength(1);
});
