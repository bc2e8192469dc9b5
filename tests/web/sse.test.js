/** Where WebSockets are blocked: Server-Sent Events and the HTTP twins, against a server that has nothing else. */

import { afterEach, beforeEach, expect, test } from "vitest";
import { RuncastClient } from "runcast/runcast.js";
import { Script, TabStorage, WebSocket, tokenOf, until } from "./support/script.js";
import { Gateway } from "./support/sse.js";

let gateway;
const clients = [];

beforeEach(async () => {
  gateway = await Gateway.start();
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  await gateway.stop();
});

function open(options = {}) {
  let serial = 0;
  const token = async ({ fresh }) => tokenOf("alice", fresh || serial === 0 ? (serial += 1) : serial);
  const chat = new RuncastClient({ url: gateway.url, WebSocket, storage: new TabStorage(), token, transport: "sse", ...options });
  clients.push(chat);
  const heard = [];
  chat.on("event", ({ id }, { origin }) => heard.push(`${id} ${origin}`));
  return { chat, heard };
}

async function live(options) {
  const opened = open(options);
  opened.chat.connect();
  const stream = (await gateway.stream()).welcome().live();
  await until(() => opened.chat.state === "live", "live");
  return { ...opened, stream };
}

test("three attempts without a frame, and it tries Server-Sent Events", async () => {
  const { chat } = open({ transport: "auto" });
  chat.connect();
  const stream = await gateway.stream();
  expect(gateway.upgrades).toBe(3);
  stream.welcome().live();
  await until(() => chat.state === "live");
  expect(chat.transport).toBe("sse");
  stream.end();
  (await gateway.stream()).welcome().live();
  await until(() => chat.state === "live");
  expect(gateway.upgrades).toBe(3);
});

test("who had a WebSocket before is more patient with them, and goes back to them", async () => {
  const script = await Script.start();
  const { chat } = open({ transport: "auto", url: script.url, WebSocket: class extends WebSocket {
    constructor(address, protocols) { super(new URL(address.search, chat.blocked ? gateway.url : script.url), protocols); }
  }, fetch: (address, options) => fetch(new URL(new URL(address).pathname, gateway.url.replace("ws", "http")), options) });
  chat.connect();
  const link = (await script.link()).welcome().live();
  await until(() => chat.state === "live");
  chat.blocked = true;
  for (let attempt = 0; attempt < 12; attempt += 1) {
    chat.connect(); // hurries
    if (attempt === 0) link.lose();
    if (gateway.upgrades < 9) await until(() => gateway.upgrades > attempt || gateway.upgrades === 9 || (chat.connect(), false));
  }
  const stream = await gateway.stream();
  expect(gateway.upgrades).toBe(9);
  stream.welcome().live();
  await until(() => chat.state === "live");
  chat.blocked = false;
  stream.end();
  (await script.link()).welcome().live();
  await until(() => chat.transport === "websocket" && chat.state === "live");
  chat.close();
  await script.stop();
});

test("the same events come, in whatever pieces, once and resumed from the cursor", async () => {
  const { chat, heard, stream } = await live({ threadId: "t1" });
  const thoughts = [];
  chat.on("agent_thinking", ({ payload }) => thoughts.push(payload.thoughts));
  expect(stream.query).toEqual({ mode: "main", thread_id: "t1" });
  expect(stream.headers).toMatchObject({ accept: "text/event-stream", authorization: `Bearer ${tokenOf("alice")}` });
  expect(stream.headers).not.toHaveProperty("last-event-id");
  await stream.raw(': heartbeat\n\nretry: 1000\n\nid: 6-0\ndata: {"type":"agent_thinking","id":"6-0","run_id":"r1",\ndata: "payload":{"thoughts":"né"}}\n\n', 1);
  stream.event("7-0");
  await until(() => heard.length === 2);
  expect(thoughts[0]).toBe("né");
  stream.response.destroy();
  const next = await gateway.stream();
  expect(next.headers["last-event-id"]).toBe("7-0");
  next.welcome().event("7-0").event("8-0").live("8-0");
  await until(() => heard.length === 3);
  expect(heard).toEqual(["6-0 live", "7-0 live", "8-0 resumed"]);
  expect(chat.cursor).toBe("8-0");
});

test("what a client sends goes by the HTTP twins", async () => {
  const { chat } = await live({ mode: "factory", threadId: "t1" });
  expect(await chat.send({ text: "1 2" }, { id: "m1", agent: "a", metadata: { x: 1 } })).toMatchObject({ run_id: "run of m1", thread_id: "t1" });
  const message = await gateway.post("/api/v1/messages");
  expect(message.body).toEqual({ id: "m1", content: { text: "1 2" }, thread_id: "t1", agent: "a", metadata: { x: 1 }, mode: "factory", isolation_level: "standard" });
  expect(message.headers.authorization).toBe(`Bearer ${tokenOf("alice")}`);
  await chat.stop("a/b");
  await gateway.post("/api/v1/runs/a%2Fb/stop");
  await chat.answer("r1", "q1", "yes");
  expect((await gateway.post("/api/v1/runs/r1/input")).body).toEqual({ request_id: "q1", content: "yes" });
});

test("an event that speaks of a welcome is none", async () => {
  const { chat, stream, heard } = await live({ mode: "isolated" });
  stream.welcome("5-0", { secret: "s1" }).event("6-0", "agent_thinking", { thoughts: { type: "connection_established" } });
  await until(() => heard.length === 1);
  await chat.send("x");
  expect((await gateway.post("/api/v1/messages")).body).toMatchObject({ connection: "c1", secret: "s1" });
});

test("an isolated message names its channel", async () => {
  const { chat } = open({ mode: "isolated" });
  chat.connect();
  (await gateway.stream()).welcome("5-0", { secret: "s1" }).live();
  await chat.send("x");
  expect((await gateway.post("/api/v1/messages")).body).toMatchObject({ mode: "isolated", connection: "c1", secret: "s1" });
});

test("a strict run has a stream of its own", async () => {
  const { chat, heard } = open({ mode: "factory", isolationLevel: "strict", threadId: "t1" });
  chat.connect();
  (await gateway.stream()).welcome().live();
  const { run_id: run } = await chat.send("x", { id: "m1" });
  const second = await gateway.stream();
  expect(second.query).toMatchObject({ isolation_level: "strict", run_id: run, after: "0-0" });
  second.welcome().event("6-0", "agent_started", { message: "" }, run).live("6-0").event("7-0", "agent_completed", {}, run);
  await until(() => heard.length === 2);
  const attached = chat.attach("r9", { after: "3-0" });
  const third = await gateway.stream();
  third.welcome("4-0").event("3-5", "agent_thinking", {}, "r9");
  await attached;
  await until(() => heard.length === 3);
});

test("a refused message is refused with its code, and may say that later is better", async () => {
  const { chat } = await live();
  gateway.answers["/api/v1/messages"] = [429, { code: "rate_limited", detail: "Slower.", status: 429 }];
  await expect(chat.send("x")).rejects.toMatchObject({ code: "rate_limited", message: "Slower.", retryable: true });
  gateway.answers["/api/v1/messages"] = [404, { code: "unknown_agent", detail: "No such agent." }];
  await expect(chat.send("x")).rejects.toMatchObject({ code: "unknown_agent", retryable: false });
});

test("a message whose answer was lost is sent again under its id", async () => {
  const { chat, stream } = await live({ fetch: (() => {
    let lost = false;
    return async (address, options) => {
      const response = await fetch(address, options);
      if (options.method !== "POST" || lost) return response;
      lost = true;
      throw new TypeError("the network was lost");
    };
  })() });
  const accepted = chat.send("x", { id: "m1" });
  await until(() => stream.response.destroyed, "the end of the stream");
  (await gateway.stream()).welcome().live();
  expect((await accepted).run_id).toBe("run of m1");
  expect(gateway.posts.map(({ body }) => body.id)).toEqual(["m1", "m1"]);
});

test("statuses mean what close codes do", async () => {
  const expected = { 400: "stopped", 403: "stopped", 401: "waiting", 429: "waiting", 503: "waiting", 500: "waiting" };
  for (const [status, state] of Object.entries(expected)) {
    gateway.refusal = Number(status);
    const { chat } = open();
    const states = [];
    chat.on("state", (change) => states.push(change.state));
    chat.connect();
    await until(() => states.length >= 2);
    expect([status, states[1]]).toEqual([status, state]);
    chat.close();
  }
});

test("a token that is about to expire is replaced with the stream", async () => {
  const { chat, stream } = await live();
  stream.send("token_expiring", { expires_at: "soon" });
  const next = await gateway.stream();
  expect(next.headers.authorization).toBe(`Bearer ${tokenOf("alice", 2)}`);
  next.welcome().live();
  await until(() => chat.state === "live");
});

test("a silent stream is given up, a heartbeat keeps it", async () => {
  const { chat } = open();
  chat.connect();
  const stream = await gateway.stream();
  stream.welcome("5-0", { heartbeat_seconds: 0.05 }).live();
  await until(() => chat.state === "live");
  let [pings, pongs] = [0, 0];
  chat.on("pong", () => { pongs += 1; });
  chat.on("*", ({ direction, frame }) => { pings += direction === "out" && frame.type === "ping"; });
  await until(() => (stream.raw(": heartbeat\n\n"), pongs >= 3));
  expect(chat.state).toBe("live");
  await until(() => pings >= pongs + 2); // without a heartbeat no ping is answered
});
