/**
 * Runcast in the browser: one class, no dependencies. One file, though long, for that is what a page copies.
 *
 * ```js
 * const chat = new RuncastClient({ token: async () => (await fetch("/token")).text() });
 * chat.on("tool_executing", (event) => console.log(event.payload.tool));
 * chat.on("agent_delta", (event, { text }) => show(event.run_id, text));
 * chat.connect();
 * const { run_id } = await chat.send("1 2 3");
 * ```
 *
 * What it promises: every event of the connection's scope once and in order, across lost connections, for as long as
 * the server still has it; where it has not, a `resync` says so. A message is never lost or run twice: it is sent
 * again under the same id until it is answered.
 *
 * All of it is in this one file so that a page can take it along without a package or a build.
 *
 * @module runcast
 */

/** The subprotocol; the token travels beside it, since a browser cannot set headers on a WebSocket. */
export const SUBPROTOCOL = "runcast.v3";

/** The facts of a run, in the order in which a complete run reports them. */
export const LIFECYCLE = Object.freeze([
  "agent_started",
  "agent_thinking",
  "tool_executing",
  "tool_completed",
  "agent_completed",
]);

/**
 * What to do after a close. Codes that are not listed, 1006 above all, mean a lost connection: back off and return.
 * `told`: after the delay of the `draining` frame. `renew`: with another token. `later`: with the longest delays.
 */
export const CLOSE_CODES = Object.freeze({
  1000: { name: "normal", then: "stop" },
  1001: { name: "going away", then: "told" },
  1009: { name: "message too large", then: "stop" },
  4400: { name: "protocol misuse", then: "stop" },
  4401: { name: "token missing, bad, expired or revoked", then: "renew" },
  4403: { name: "forbidden", then: "stop" },
  4408: { name: "too slow", then: "backoff" },
  4409: { name: "taken over", then: "stop" },
  4429: { name: "too many connections or messages", then: "later" },
  4503: { name: "broker unavailable", then: "backoff" },
});

const BACKOFF_FIRST_MS = 250;
const BACKOFF_LAST_MS = 15_000;
const CONNECT_DEADLINE_MS = 20_000; // a browser alone would wait for minutes
const PONG_DEADLINE_MS = 10_000;
const REMEMBERED_EVENTS = 2_000; // identities kept to tell repeats after a resync; as many as a log usually retains

/**
 * Every state of a connection and where each occurrence leads; anything else does not happen.
 * @type {Readonly<Record<State, Record<string, State>>>}
 */
const MOVES = Object.freeze({
  idle: { open: "connecting", close: "closed" },
  connecting: { welcome: "catching_up", lose: "waiting", refuse: "stopped", drop: "idle", close: "closed" },
  catching_up: { level: "live", lose: "waiting", refuse: "stopped", drop: "idle", close: "closed" },
  live: { lose: "waiting", refuse: "stopped", drop: "idle", close: "closed" },
  waiting: { open: "connecting", refuse: "stopped", drop: "idle", close: "closed" },
  stopped: { open: "connecting", drop: "idle", close: "closed" },
  closed: {},
});

/**
 * @typedef {"main" | "factory" | "isolated" | "legacy"} Mode
 * @typedef {"idle" | "connecting" | "catching_up" | "live" | "waiting" | "stopped" | "closed"} State
 *
 * @typedef {object} Options
 * @property {(why: {fresh: boolean}) => Promise<string>} token  Gives a token. `fresh`: the one given before has been
 *   refused or is about to expire, so a remembered one will not do.
 * @property {string} [url]  Default `/ws` of this page's host.
 * @property {Mode} [mode]  Default `main`.
 * @property {string} [threadId]  main: only this thread; factory: the thread, one is made if absent. It
 *   is also the thread that messages are sent to, and only that in all other cases.
 * @property {"standard" | "strict"} [isolationLevel]  factory only.
 * @property {string} [runId]  factory strict: attach to this run at once.
 * @property {string} [after]  Cursor to begin at; `0-0` = all that is retained; absent = from now on.
 * @property {"all" | "lifecycle"} [events]  `lifecycle` leaves out streamed text.
 *
 * @typedef {object} RuncastEvent
 * @property {string} type
 * @property {string} [id]  The cursor; absent on streamed text and in legacy mode.
 * @property {string} [user_id]
 * @property {string} [thread_id]
 * @property {string} run_id
 * @property {string} [parent_run_id]
 * @property {string} [agent_name]
 * @property {number} [seq]
 * @property {number} [attempt]
 * @property {string} [timestamp]
 * @property {Record<string, any>} payload
 *
 * @typedef {object} Context  Second argument of every event handler.
 * @property {"live" | "history" | "resumed"} origin  `history`: replayed on a first connection; `resumed`: it
 *   happened while this client was away.
 * @property {string} [text]  With `agent_delta`: the run's whole text so far.
 *
 * @typedef {object} StateChange
 * @property {State} state
 * @property {State} previous
 * @property {number} [code]  Close code, when a socket was closed.
 * @property {string} [reason]
 * @property {number} [retryInMs]
 *
 * @typedef {object} Accepted
 * @property {string} run_id
 * @property {string} thread_id
 * @property {string} agent
 * @property {boolean} duplicate
 */

/** A request that the server answered with an error, or that a final close left unanswered. */
export class RuncastError extends Error {
  /** @param {string} code @param {string} message @param {boolean} retryable */
  constructor(code, message, retryable = false) {
    super(message || code);
    this.name = "RuncastError";
    this.code = code;
    this.retryable = retryable;
  }
}

/**
 * Order of two cursors: negative, zero or positive. They are compared as numbers and part by part, for as text
 * `…-10` would come before `…-9`. Gives NaN when either is not a cursor, which no comparison holds true of.
 * @param {string} one @param {string} other
 */
export function compareCursors(one, other) {
  const [a, b] = [one, other].map((cursor) => /^(\d+)-(\d+)$/.exec(cursor ?? ""));
  if (!a || !b) return NaN;
  for (const part of [1, 2]) {
    const [x, y] = [BigInt(a[part]), BigInt(b[part])];
    if (x !== y) return x < y ? -1 : 1;
  }
  return 0;
}

/** Full jitter: anywhere between nothing and a ceiling that doubles. @param {number} attempt 0 for the first. */
export function backoff(attempt, random = Math.random) {
  return random() * Math.min(BACKOFF_LAST_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 16));
}

/** Frames of legacy mode carry `data` where all others carry `payload`. */
function normalise(frame) {
  if (frame.payload !== undefined || frame.data === undefined) return { ...frame, payload: frame.payload ?? {} };
  const { data, ...rest } = frame;
  return { ...rest, payload: data ?? {} };
}

/** An id for a message: 128 random bits. `crypto.randomUUID` would not do, a page on plain HTTP does not have it. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** One user's connection. It does nothing before {@link RuncastClient#connect}. */
export class RuncastClient {
  /** @type {Options} */ #options;
  /** @type {State} */ #state = "idle";
  /** @type {WebSocket | null} */ #socket = null;
  #handlers = new Map(); //   type → set of handlers
  #pending = new Map(); //    request id → {frame, again, resolve, reject}, oldest first
  #cursors = new Map(); //    channel → cursor, or null when nothing of it is known yet
  #visited = new Set(); //    channels that an earlier connection has read: what they replay is "resumed"
  #replayEnds = new Map(); // run → cursor where the replay after an `attach` ends
  #roots = new Map(); //      sub-agent's run → the run whose channel it is in
  #texts = new Map(); //      run → {next, text}
  #seen = new Set(); //       identities of the latest events
  #address = { channel: "", resuming: false }; // of the present connection
  /** @type {{connection: string, secret: string} | null} */
  #identity = null; //        isolated: what it takes to take the channel up again
  #generation = 0; //         of the connection attempt: what belongs to an earlier one is ignored
  #attempts = 0; //           without progress
  /** @type {number | null} */ #toldDelayMs = null;
  #lastToken = "";
  #refusedToken = "";
  #retry; #watch; #deadline; // timers
  #online = () => this.#state === "waiting" && this.connect();

  /** @param {Options} options */
  constructor(options) {
    if (typeof options?.token !== "function") throw new TypeError("RuncastClient needs token: async () => string");
    this.#options = { mode: "main", isolationLevel: "standard", events: "all", ...options };
    globalThis.addEventListener?.("online", this.#online);
  }

  /** @returns {State} */
  get state() { return this.#state; }

  /** The thread that this connection is on; in factory mode without a given one, the one that the server made. */
  get threadId() { return this.#options.threadId; }

  /** The `id` of the last event of the present channel. */
  get cursor() { return this.#cursors.get(this.#address.channel) ?? null; }

  /**
   * Have `handler` called with `(event, context)` for a type of event or frame. Three more names: `event` for every
   * lifecycle event, `state` for {@link StateChange}, `*` for `{direction: "in" | "out", frame}` as it is on the wire.
   * @param {string} type
   * @param {(event: any, context?: any) => void} handler
   * @returns {() => void} call it to stop
   */
  on(type, handler) {
    if (!this.#handlers.has(type)) this.#handlers.set(type, new Set());
    this.#handlers.get(type).add(handler);
    return () => this.#handlers.get(type).delete(handler);
  }

  /**
   * Connect, or come back, from the cursor. Also hurries a waiting reconnection. No effect while connected.
   * @param {{threadId?: string}} [change]  The thread to be on; every thread keeps its own cursor.
   */
  connect(change = {}) {
    if (!MOVES[this.#state].open) return;
    if ("threadId" in change) this.#options.threadId = change.threadId;
    this.#open(this.#lastToken !== "" && this.#lastToken === this.#refusedToken);
  }

  /** Drop the connection and stay away; the cursor and unanswered messages are kept for {@link connect}. */
  disconnect() {
    this.#leave();
    this.#advance("drop");
  }

  /** The end: unanswered requests are rejected and nothing can be sent any more. */
  close() {
    this.#leave();
    globalThis.removeEventListener?.("online", this.#online);
    this.#rejectAll("closed", "the client was closed");
    this.#advance("close");
  }

  /**
   * Start a run. Settles when the server has accepted the message, however many reconnections that takes.
   * @param {string | object} content
   * @param {{threadId?: string, agent?: string, metadata?: object, id?: string}} [options]  Sending again with the
   *   same `id` gives the same run.
   * @returns {Promise<Accepted>}
   * @throws {RuncastError}
   */
  send(content, { threadId = this.#options.threadId, agent, metadata, id } = {}) {
    return this.#request("user_message", { content, thread_id: threadId, agent, metadata }, { id, again: true });
  }

  /** Ask a run to stop; its `agent_completed` tells when it has. @param {string} runId */
  stop(runId) {
    return this.#request("stop_agent", { run_id: runId }, { again: true });
  }

  /** Answer an `input_required`. @param {string} runId @param {string} requestId @param {any} content */
  answer(runId, requestId, content) {
    return this.#request("user_input", { run_id: runId, request_id: requestId, content }, { again: true });
  }

  /** Factory strict: follow one more run of this user. @param {string} runId @param {{after?: string}} [options] */
  async attach(runId, { after } = {}) {
    this.#cursors.set(`run:${runId}`, after ?? null);
    const { cursor } = await this.#request("attach", { run_id: runId, after });
    this.#replayEnds.set(runId, cursor);
  }

  /** Factory strict: follow it no longer. @param {string} runId */
  async detach(runId) {
    this.#forget(runId);
    await this.#request("detach", { run_id: runId });
  }

  // ---- one connection, from its address to its loss

  async #open(fresh) {
    const generation = ++this.#generation;
    clearTimeout(this.#retry);
    this.#advance("open");
    try {
      const token = await this.#options.token({ fresh });
      if (generation !== this.#generation) return;
      if (fresh && token === this.#refusedToken) {
        this.#stop(4401, "the token was refused and there is no other");
        return;
      }
      this.#lastToken = token;
      this.#listen(new WebSocket(this.#resolveAddress(), [SUBPROTOCOL, `jwt.${token}`]));
    } catch (/** @type {any} */ error) {
      if (generation !== this.#generation) return;
      if (error?.name === "SyntaxError" && error instanceof DOMException) this.#stop(undefined, "the token has characters that no token has");
      else this.#lose(undefined, error?.message ?? String(error));
    }
  }

  #resolveAddress() {
    const { url = "/ws", mode, threadId, isolationLevel, events, runId, after } = this.#options;
    const address = new URL(url, globalThis.location?.href);
    address.protocol = address.protocol.replace(/^http/, "ws");
    const set = (name, value) => value && address.searchParams.set(name, value);
    set("mode", mode);
    if (events !== "all") set("events", events);
    if (mode === "legacy") {
      this.#address = { channel: "", resuming: false };
      return address;
    }
    /** @type {string} */
    let channel = mode ?? "main";
    if (mode === "main" || (mode === "factory" && !this.#strict)) {
      set("thread_id", threadId);
      channel = `thread:${threadId ?? ""}`;
    }
    if (mode === "factory") set("isolation_level", isolationLevel);
    if (this.#strict) {
      const newest = this.#openRuns().at(-1) ?? runId;
      set("run_id", newest);
      channel = `run:${newest ?? ""}`;
    }
    if (mode === "isolated" && this.#identity) {
      set("connection", this.#identity.connection);
      set("secret", this.#identity.secret);
    }
    const cursor = this.#cursors.get(channel) ?? after;
    set("after", cursor);
    if (cursor) this.#cursors.set(channel, cursor);
    this.#address = { channel, resuming: Boolean(cursor) && this.#visited.has(channel) };
    return address;
  }

  #listen(socket) {
    this.#socket = socket;
    const ours = (act) => (event) => socket === this.#socket && act(event);
    socket.onmessage = ours(({ data }) => this.#receive(data));
    socket.onclose = ours(({ code, reason }) => this.#closed(code, reason));
    this.#deadline = setTimeout(() => this.#closed(1006, "no answer"), CONNECT_DEADLINE_MS);
  }

  /** Let go of the socket without waiting for its closing handshake: on a dead network that takes a minute. */
  #leave() {
    this.#generation++;
    for (const timer of [this.#retry, this.#deadline]) clearTimeout(timer);
    clearInterval(this.#watch);
    const socket = this.#socket;
    this.#socket = null;
    if (socket?.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close(1000);
    else socket?.close(1000);
    for (const [id, { again, reject }] of this.#pending) {
      if (again) continue;
      this.#pending.delete(id);
      reject(new RuncastError("connection_lost", "the connection was lost before the answer", true));
    }
  }

  #closed(code, reason) {
    switch (CLOSE_CODES[code]?.then) {
      case "stop":
        return this.#stop(code, reason || CLOSE_CODES[code].name);
      case "told":
        return this.#lose(code, reason, this.#toldDelayMs);
      case "later":
        return this.#lose(code, reason, BACKOFF_LAST_MS * (0.5 + Math.random() / 2));
      case "renew":
        this.#refusedToken = this.#lastToken;
        return this.#lose(code, reason);
      default:
        return this.#lose(code, reason);
    }
  }

  /** @param {number | undefined} code @param {string} reason @param {number | null} [delayMs] */
  #lose(code, reason, delayMs) {
    this.#leave();
    this.#toldDelayMs = null;
    const retryInMs = delayMs ?? backoff(this.#attempts++);
    this.#advance("lose", { code, reason, retryInMs });
    this.#retry = setTimeout(() => this.connect(), retryInMs);
  }

  #stop(code, reason) {
    this.#leave();
    this.#rejectAll("closed", reason);
    this.#advance("refuse", { code, reason });
  }

  // ---- frames

  #receive(data) {
    let raw;
    try {
      raw = JSON.parse(data);
    } catch {
      return;
    }
    this.#emit("*", { direction: "in", frame: raw });
    const frame = normalise(raw);
    if (typeof frame.type !== "string") return;
    if (LIFECYCLE.includes(frame.type) || (frame.id && frame.run_id)) return this.#event(frame);
    if (frame.type === "agent_delta") return this.#delta(frame);
    this.#control(frame);
    this.#settle(frame);
    this.#emit(frame.type, frame);
  }

  #control({ type, payload }) {
    const channel = this.#address.channel;
    switch (type) {
      case "connection_established":
        clearTimeout(this.#deadline);
        this.#welcome(payload);
        break;
      case "live":
        if (this.#cursors.has(channel) && compareCursors(payload.cursor, this.cursor) > 0) {
          this.#cursors.set(channel, payload.cursor);
        }
        this.#level();
        break;
      case "resync":
        this.#rewind(payload);
        break;
      case "token_expiring":
        this.#refresh();
        break;
      case "draining":
        this.#toldDelayMs = payload.reconnect_after_ms ?? null;
    }
  }

  #welcome(payload) {
    const { mode } = this.#options;
    if (mode === "isolated" && payload.secret) {
      this.#identity = { connection: payload.connection_id, secret: payload.secret };
    }
    if (mode === "factory" && payload.thread_id && !this.#options.threadId) {
      this.#options.threadId = payload.thread_id;
      if (!this.#strict) this.#address.channel = `thread:${payload.thread_id}`;
    }
    const channel = this.#address.channel;
    // Whoever begins "from now on" begins here: lost before its first event, it still comes back to this place.
    const follows = channel && channel !== "run:";
    if (follows && !this.#cursors.get(channel)) this.#cursors.set(channel, payload.cursor ?? null);
    if (follows) this.#visited.add(channel);
    this.#advance("welcome");
    this.#keepWatch((payload.heartbeat_seconds ?? 25) * 1000);
    if (mode === "legacy") this.#level(); // which has no replay to wait for
    for (const { frame } of this.#pending.values()) this.#transmit(frame);
    if (!this.#strict) return;
    for (const run of this.#openRuns()) {
      if (channel === `run:${run}`) continue;
      this.#visited.add(`run:${run}`);
      this.attach(run, { after: this.#cursors.get(`run:${run}`) ?? undefined }).catch(() => this.#forget(run));
    }
  }

  #level() {
    if (this.#state !== "catching_up") return;
    this.#attempts = 0;
    this.#advance("level");
  }

  /** A hole that the server cannot fill: go on from where it goes on. What it repeats is known by its identity. */
  #rewind({ from, run_id: runId }) {
    if (!from) return;
    const channels = this.#strict ? (runId ? [runId] : this.#openRuns()).map((run) => `run:${run}`) : [this.#address.channel];
    for (const channel of channels) if (channel) this.#cursors.set(channel, from);
  }

  #event(event) {
    const { id, type, run_id: run, parent_run_id: parent } = event;
    if (parent) this.#roots.set(run, this.#roots.get(parent) ?? parent);
    const root = this.#roots.get(run) ?? run;
    const channel = this.#strict ? `run:${root}` : this.#address.channel;
    const identity = [run, type, event.seq ?? event.payload.message_id ?? event.payload.request_id, event.attempt, event.timestamp].join(" ");
    if (id) {
      if (compareCursors(id, this.#cursors.get(channel)) <= 0) return;
      this.#cursors.set(channel, id);
      if (this.#seen.has(identity)) return;
      this.#seen.add(identity);
      if (this.#seen.size > REMEMBERED_EVENTS) this.#seen.delete(this.#seen.values().next().value);
    }
    this.#attempts = 0;
    if (type === "agent_started") this.#texts.delete(run); // of an attempt before
    const context = { origin: this.#originOf(id, root, channel) };
    this.#visited.add(channel);
    this.#emit(type, event, context);
    if (LIFECYCLE.includes(type)) this.#emit("event", event, context);
    if (type !== "agent_completed") return;
    this.#texts.delete(run);
    this.#roots.delete(run);
    if (run === root) this.#forget(run);
  }

  #originOf(id, root, channel) {
    const replaying = this.#state === "catching_up" || compareCursors(id, this.#replayEnds.get(root)) <= 0;
    if (!replaying) return "live";
    const resuming = channel === this.#address.channel ? this.#address.resuming : this.#visited.has(channel);
    return resuming ? "resumed" : "history";
  }

  /** Text that follows what is here, or starts anew; a piece after a hole waits for the server to send the whole. */
  #delta(event) {
    const { offset, next, text } = event.payload;
    const known = offset === 0 ? { next: 0, text: "" } : this.#texts.get(event.run_id);
    if (!known || known.next !== offset) return;
    const whole = known.text + text;
    this.#texts.set(event.run_id, { next, text: whole });
    const origin = this.#state === "catching_up" ? (this.#address.resuming ? "resumed" : "history") : "live";
    this.#emit("agent_delta", event, { origin, text: whole });
  }

  // ---- requests

  #request(type, payload, { id = newId(), again = false } = {}) {
    if (this.#state === "closed") return Promise.reject(new RuncastError("closed", "the client was closed"));
    const frame = { type, id, payload };
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { frame, again, resolve, reject });
      if (this.#state === "live" || this.#state === "catching_up") this.#transmit(frame);
    });
  }

  #transmit(frame) {
    this.#emit("*", { direction: "out", frame });
    this.#socket?.send(JSON.stringify(frame));
  }

  #settle({ type, ref, payload }) {
    // V2 had no references, so an old-style answer belongs to the oldest message.
    const oldest = () => [...this.#pending].find(([, { frame }]) => frame.type === "user_message")?.[0];
    const id = ref ?? (this.#options.mode === "legacy" && type === "run_accepted" ? oldest() : undefined);
    const request = this.#pending.get(id);
    if (!request) return;
    this.#pending.delete(id);
    if (type === "error") {
      request.reject(new RuncastError(payload.code, payload.message, payload.retryable));
      return;
    }
    if (type === "run_accepted" && this.#strict && !this.#cursors.has(`run:${payload.run_id}`)) this.#begin(payload);
    request.resolve(payload);
  }

  /** Factory strict: a run of one's own is followed from its beginning. */
  #begin({ run_id: runId, duplicate }) {
    this.#cursors.set(`run:${runId}`, "0-0");
    this.#visited.add(`run:${runId}`);
    if (duplicate) this.attach(runId, { after: "0-0" }).catch(() => this.#forget(runId));
  }

  async #refresh() {
    const generation = this.#generation;
    try {
      const token = await this.#options.token({ fresh: true });
      if (generation !== this.#generation) return;
      this.#lastToken = token;
      await this.#request("auth_refresh", { token });
    } catch {
      // Then the server closes with 4401 when the token has expired, and the reconnection asks for one again.
    }
  }

  /** A network that dies silently closes no socket: what does not answer a ping in time is dropped. */
  #keepWatch(everyMs) {
    const generation = this.#generation;
    this.#watch = setInterval(() => {
      clearTimeout(this.#deadline);
      this.#deadline = setTimeout(() => generation === this.#generation && this.#closed(1006, "no answer"), PONG_DEADLINE_MS);
      this.#request("ping", {}).then(() => generation === this.#generation && clearTimeout(this.#deadline), () => {});
    }, everyMs);
  }

  // ---- the rest

  get #strict() {
    return this.#options.mode === "factory" && this.#options.isolationLevel === "strict";
  }

  #openRuns() {
    return [...this.#cursors.keys()].filter((channel) => /^run:./.test(channel)).map((channel) => channel.slice(4));
  }

  #forget(runId) {
    for (const remembered of [this.#cursors, this.#visited]) remembered.delete(`run:${runId}`);
    this.#replayEnds.delete(runId);
    if (this.#options.runId === runId) this.#options.runId = undefined;
  }

  #rejectAll(code, message) {
    for (const { reject } of this.#pending.values()) reject(new RuncastError(code, message));
    this.#pending.clear();
  }

  #advance(occurrence, detail = {}) {
    const next = MOVES[this.#state][occurrence];
    if (!next) return;
    const previous = this.#state;
    this.#state = next;
    this.#emit("state", { state: next, previous, ...detail });
  }

  /** A handler that throws is its page's bug: it is reported there and costs no other handler the event. */
  #emit(type, event, context) {
    for (const handler of [...(this.#handlers.get(type) ?? [])]) {
      try {
        handler(event, context);
      } catch (error) {
        globalThis.reportError?.(error);
      }
    }
  }
}
