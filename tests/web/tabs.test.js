/**
 * Tabs that share one socket: several clients with one lock manager and the real BroadcastChannel. The same with real
 * tabs is in tests/browser/test_tabs.py.
 */

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { RuncastClient, compareCursors } from "runcast/runcast.js";
import { Locks } from "./support/locks.js";
import { Gateway } from "./support/sse.js";
import { Script, TabStorage, WebSocket, tokenOf, until } from "./support/script.js";

let script;
let locks;
const clients = [];

beforeEach(async () => {
  script = await Script.start();
  locks = new Locks();
  vi.stubGlobal("document", Object.assign(new EventTarget(), { hidden: false }));
  vi.stubGlobal("navigator", { onLine: true, locks });
});

afterEach(async () => {
  vi.restoreAllMocks();
  for (const client of clients.splice(0)) client.close();
  await script.stop();
});

function open(options = {}) {
  const chat = new RuncastClient({ url: script.url, WebSocket, storage: new TabStorage(), token: async () => tokenOf("alice"), after: "0-0", ...options });
  clients.push(chat);
  const [heard, states] = [[], []];
  chat.on("event", ({ id }) => heard.push(id));
  chat.on("state", ({ state }) => states.push(state));
  chat.connect();
  return { chat, heard, states };
}

const isLive = ({ chat }) => until(() => chat.state === "live", "live");
const has = ({ heard }, ...ids) => until(() => heard.join() === ids.join(), `${ids} in ${heard}`);

/** A leader with its link, and as many followers as asked for. */
async function lead(followers = 1, options = {}) {
  const leader = open(options);
  const link = (await script.link()).welcome("5-0").live("5-0");
  await isLive(leader);
  const others = [];
  for (let number = 0; number < followers; number += 1) others.push(open(options));
  await Promise.all(others.map(isLive));
  return { leader, link, others };
}

test("several tabs have one socket, and each hears everything", async () => {
  const { leader, link, others } = await lead(3);
  link.event("6-0").event("7-0");
  for (const tab of [leader, ...others]) await has(tab, "6-0", "7-0");
  expect([script.count, script.open]).toEqual([1, 1]);
});

test("a tab that comes later gets what was before, and text that is being written", async () => {
  const { leader, link, others: [early] } = await lead();
  link.event("6-0").delta(0, "né").delta(3, "e");
  await until(() => leader.chat.text("r1") === "née" && early.chat.text("r1") === "née");
  const late = open();
  await has(late, "6-0");
  await until(() => late.chat.text("r1") === "née");
  link.delta(4, " Ada");
  for (const { chat } of [leader, early, late]) await until(() => chat.text("r1") === "née Ada");
  expect(script.count).toBe(1);
});

test("tabs that open at the same moment find the one that got the lock", async () => {
  const { request } = locks;
  locks.request = async (...asked) => {
    await new Promise((granted) => setTimeout(granted, 50));
    return request.apply(locks, asked);
  };
  const tabs = [open(), open(), open()];
  (await script.link()).welcome().live();
  for (const tab of tabs) await isLive(tab);
  expect(script.count).toBe(1);
});

test("a tab that begins now gets what comes from now on", async () => {
  const { link } = await lead(0, { after: undefined });
  link.event("6-0");
  const late = open({ after: undefined });
  await isLive(late);
  link.event("7-0");
  await has(late, "7-0");
});

test("who sends gets the answer, and nobody else does", async () => {
  const { leader, link, others: [one, two] } = await lead(2);
  const accepted = [];
  for (const { chat } of [leader, one, two]) chat.on("run_accepted", ({ ref }) => accepted.push(ref));
  const sent = one.chat.send("hello", { id: "m1" });
  expect((await link.take("user_message")).id).toBe("m1");
  link.send("run_accepted", { run_id: "r1" }, { ref: "m1" });
  expect((await sent).run_id).toBe("r1");
  const stopped = two.chat.stop("r1");
  link.send("ok", {}, { ref: (await link.take("stop_agent")).id });
  await stopped;
  const own = leader.chat.send("mine", { id: "m2" });
  link.send("run_accepted", { run_id: "r2" }, { ref: (await link.take("user_message")).id });
  await own;
  expect(accepted).toEqual(["m1", "m2"]);
});

test("only the tab with the socket renews the token", async () => {
  const { link, others: [follower] } = await lead();
  const seen = [];
  follower.chat.on("token_expiring", () => seen.push("told"));
  link.send("token_expiring", { expires_at: "soon" });
  await link.take("auth_refresh");
  link.event("6-0");
  await has(follower, "6-0");
  expect([seen, link.received]).toEqual([[], []]);
});

test("when the tab with the socket is closed, another one takes over from its cursor", async () => {
  const { leader, link, others } = await lead(2);
  link.event("6-0");
  for (const tab of [leader, ...others]) await has(tab, "6-0");
  const pending = others[0].chat.send("hello", { id: "m1" });
  await link.take("user_message");
  leader.chat.close();
  const next = await script.link();
  expect(next.query.after).toBe("6-0");
  next.welcome("7-0").event("7-0").live("7-0").event("8-0");
  for (const tab of others) await has(tab, "6-0", "7-0", "8-0");
  expect((await next.take("user_message")).id).toBe("m1");
  next.send("run_accepted", { run_id: "r1" }, { ref: "m1" });
  expect((await pending).run_id).toBe("r1");
  expect(script.count).toBe(2);
});

/** The tab with the socket neither says nor hears anything any more, from its next frame on. */
function silence() {
  const muted = new Set();
  const { postMessage } = BroadcastChannel.prototype;
  vi.spyOn(BroadcastChannel.prototype, "postMessage").mockImplementation(function post(message) {
    if (muted.size === 0 && message.frames) {
      muted.add(this);
      this.onmessage = null;
    }
    if (!muted.has(this)) postMessage.call(this, message);
  });
  return muted;
}

test("when it crashes, its lock tells", async () => {
  const { leader, link, others } = await lead(2);
  silence();
  link.event("6-0");
  await has(leader, "6-0");
  locks.drop("alice");
  const next = await script.link();
  expect(next.query.after).toBe("5-0");
  next.welcome("6-0").event("6-0").live("6-0").event("7-0");
  for (const tab of others) await has(tab, "6-0", "7-0");
});

test("when it is frozen, the lock is taken from it, and thawed it follows", async () => {
  const { leader, link, others: [follower] } = await lead();
  link.event("6-0");
  await has(follower, "6-0");
  silence();
  link.event("7-0"); // which only the frozen one hears
  await has(leader, "6-0", "7-0");
  follower.chat.disconnect();
  follower.chat.connect();
  const next = await script.link();
  expect(next.query.after).toBe("6-0");
  next.welcome("7-0").event("7-0").live("7-0");
  await has(follower, "6-0", "7-0");
  next.event("8-0");
  await has(leader, "6-0", "7-0", "8-0");
  await until(() => script.open === 1, "one socket");
});

test("a lost connection is lost for all, and comes back for all", async () => {
  const { leader, link, others } = await lead(2);
  link.event("6-0");
  for (const tab of [leader, ...others]) await has(tab, "6-0");
  link.lose();
  const next = await script.link();
  expect(next.query.after).toBe("6-0");
  next.welcome("7-0").event("7-0").live("7-0");
  for (const tab of [leader, ...others]) {
    await has(tab, "6-0", "7-0");
    await isLive(tab);
  }
  expect(script.open).toBe(1);
});

test("a draining server's delay holds for all", async () => {
  const { leader, link, others: [follower] } = await lead();
  const delays = [];
  for (const { chat } of [leader, follower]) chat.on("state", ({ retryInMs }) => retryInMs && delays.push(retryInMs));
  link.send("draining", { reconnect_after_ms: 77 });
  await until(() => follower.chat.on("draining", () => {}) && true);
  link.event("6-0");
  await has(follower, "6-0");
  link.close(1001, "going away");
  await until(() => delays.length >= 2);
  expect(delays.slice(0, 2)).toEqual([77, 77]);
});

test("a place that the leader cannot vouch for is read by a socket of one's own first", async () => {
  const { link } = await lead(0, { after: undefined });
  link.event("6-0");
  const late = open({ after: "3-0" });
  const own = await script.link();
  expect(own.query.after).toBe("3-0");
  own.welcome("6-0").event("4-0").event("6-0").live("6-0");
  await has(late, "4-0", "6-0");
  await until(() => script.open === 1, "one socket");
  link.event("7-0");
  await has(late, "4-0", "6-0", "7-0");
});

test("a place of a history that was given up is not vouched for", async () => {
  const { leader, link, others: [follower] } = await lead();
  link.event("6-0").event("7-0");
  await has(follower, "6-0", "7-0");
  link.send("resync", { reason: "forked", from: "6-0", channel_cursor: "6-9" });
  link.event("6-9");
  await has(leader, "6-0", "7-0", "6-9");
  await has(follower, "6-0", "7-0", "6-9");
  open({ after: "7-0" }); // from before the fork
  const own = await script.link();
  expect(own.query.after).toBe("7-0");
});

test("who leads while it still reads is followed from there", async () => {
  const leader = open();
  const link = (await script.link()).welcome("9-0").event("6-0");
  await has(leader, "6-0");
  const follower = open();
  await has(follower, "6-0");
  expect(follower.chat.state).toBe("catching_up");
  link.event("7-0").live("9-0").event("10-0");
  for (const tab of [leader, follower]) {
    await has(tab, "6-0", "7-0", "10-0");
    await isLive(tab);
  }
});

test("users, threads and modes do not share", async () => {
  await lead(0, { threadId: "t1" });
  const others = [{ token: async () => tokenOf("bob"), threadId: "t1" }, { threadId: "t2" }, { mode: "factory", threadId: "t1" }, { mode: "isolated" }, { share: false, threadId: "t1" }, { token: async () => "opaque", threadId: "t1" }];
  for (const options of others) {
    open(options);
    await script.link();
  }
  expect(script.open).toBe(7);
});

test("where WebSockets are blocked tabs share a stream", async () => {
  const gateway = await Gateway.start();
  const leader = open({ url: gateway.url });
  const stream = (await gateway.stream()).welcome().live();
  await isLive(leader);
  const follower = open({ url: gateway.url });
  stream.event("6-0");
  for (const tab of [leader, follower]) await has(tab, "6-0");
  leader.chat.close();
  (await gateway.stream()).welcome("7-0").event("7-0").live("7-0");
  await has(follower, "6-0", "7-0");
  expect(gateway.upgrades).toBe(6);
  follower.chat.close();
  await gateway.stop();
});

test("without locks each tab has its own", async () => {
  vi.stubGlobal("navigator", { onLine: true });
  open();
  open();
  await script.link();
  await script.link();
});

test("however tabs come, go and are cut off, each hears each event once and in order", async () => {
  const log = [];
  const served = new Set();
  let busy = true;
  const serve = async () => {
    while (busy) {
      const link = await script.link().catch(() => null);
      if (!link) return;
      link.welcome(log.at(-1) ?? "0-1");
      for (const id of log) if (compareCursors(id, link.query.after) > 0) link.event(id);
      link.live(log.at(-1) ?? "0-1");
      served.add(link);
    }
  };
  void serve();
  const tabs = [open(), open(), open()];
  const random = (most) => Math.floor(Math.random() * most);
  for (let number = 1; number <= 150; number += 1) {
    const id = `${number}-0`;
    log.push(id);
    for (const link of served) if (link.socket.readyState === 1) link.event(id);
    const dice = random(20);
    if (dice === 0) tabs.push(open());
    if (dice === 1 && tabs.length > 2) tabs.splice(random(tabs.length), 1)[0].chat.close();
    if (dice === 2) for (const link of served) link.lose();
    if (dice === 3) {
      const { chat } = tabs[random(tabs.length)];
      chat.disconnect();
      chat.connect();
    }
    await new Promise((go) => setTimeout(go, random(8)));
  }
  for (const tab of tabs) await until(() => tab.heard.at(-1) === log.at(-1), "level");
  for (const { heard } of tabs) expect(heard).toEqual(log);
  await until(() => script.open === 1, "one socket");
  busy = false;
}, 20_000);
