/**
 * Runcast in the browser: one class, no dependencies; types and their prose are in runcast.d.ts. Loaded only where
 * needed: runcast-tabs.js (a user's tabs share one socket) and runcast-sse.js (where WebSockets are blocked).
 * Long, for it is one class and one download.
 *
 * ```js
 * const chat = new RuncastClient({ token: async () => (await fetch("/token")).text() });
 * chat.on("agent_delta", (event, { text }) => show(event.run_id, text));
 * const { run_id } = await chat.send("1 2 3");
 * ```
 */

/** The token travels beside it, since a browser cannot set headers on a WebSocket. */
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
 * What to do after a close; codes that are not listed mean a lost connection: back off. `told`: after the delay of the
 * `draining` frame. `renew`: with another token. `later`: with long delays.
 */
export const CLOSE_CODES = Object.freeze({
  1000: "stop", // normal
  1001: "told", // going away
  1009: "stop", // message too large
  4400: "stop", // protocol misuse
  4401: "renew", // token missing, bad, expired or revoked
  4403: "stop", // forbidden
  4408: "backoff", // too slow
  4409: "stop", // taken over
  4429: "later", // too many connections or messages
  4503: "backoff", // broker unavailable
});

const BACKOFF_FIRST_MS = 250;
const BACKOFF_LAST_MS = 15_000;
const CONNECT_DEADLINE_MS = 20_000; // a browser alone would wait for minutes
const PONG_DEADLINE_MS = 10_000;
const PROBE_DEADLINE_MS = 4_000; // when the device says that its network changed
const BLOCKED_AFTER = 3; // attempts without a frame; more when this client has had a WebSocket before
const LOST_AFTER = 9;
const REMEMBERED_EVENTS = 2_000; // identities kept to tell repeats after a resync; as many as a log usually retains
const REMEMBERED_TEXTS = 100; // of runs that are over

const ALWAYS = { drop: "idle", close: "closed" };
const OPEN = { lose: "waiting", refuse: "stopped", ...ALWAYS };

/** Every state of a connection and where each occurrence leads; anything else does not happen. */
const MOVES = Object.freeze({
  idle: { open: "connecting", close: "closed" },
  connecting: { welcome: "catching_up", ...OPEN },
  catching_up: { level: "live", ...OPEN },
  live: OPEN,
  waiting: { open: "connecting", refuse: "stopped", ...ALWAYS },
  stopped: { open: "connecting", ...ALWAYS },
  closed: {},
});

export class RuncastError extends Error {
  constructor(code, message, retryable = false) {
    super(message || code);
    Object.assign(this, { name: "RuncastError", code, retryable });
  }
}

/** Order of two cursors, as numbers: as text `…-10` would come before `…-9`. NaN when either is none. */
export function compareCursors(one, other) {
  const [a, b] = [one, other].map((cursor) => /^\d+-\d+$/.test(cursor) && cursor.split("-").map(BigInt));
  return a && b ? Number(a[0] - b[0] || a[1] - b[1]) : NaN;
}

/** Full jitter: anywhere between nothing and a ceiling that doubles. */
export function backoff(attempt, random = Math.random) {
  return random() * Math.min(BACKOFF_LAST_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 16));
}

/** A page on plain HTTP has no `crypto.randomUUID`. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Frames of legacy mode carry `data` where all others carry `payload`. */
function normalise({ data, ...frame }) {
  return { ...frame, payload: frame.payload ?? data ?? {} };
}

/** Only to keep users apart on this machine; who they are is decided by the server. */
function ownerOf(token) {
  try {
    const { tenant = "", sub } = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    return sub && JSON.stringify([tenant, sub]);
  } catch {
    return "";
  }
}

const offline = () => globalThis.navigator?.onLine === false;
const hidden = () => globalThis.document?.hidden === true;

export class RuncastClient {
  #options;
  #state = "idle";
  #socket = null;
  #handlers = new Map(); // type → set of handlers
  #pending = new Map(); // request id → {frame, again, resolve, reject}, oldest first
  #cursors = new Map(); // channel → cursor, or null when nothing of it is known yet
  #seenUpTo = new Map(); // channel → cursor: what is replayed after it is "resumed", before it "history"
  #replayEnds = new Map(); // run → cursor where the replay after an `attach` ends
  #roots = new Map(); // sub-agent's run → the run whose channel it is in
  #texts = new Map(); // run → {next, text, event}; over when `next` is null
  #seen = new Set(); // identities of the latest events
  #channel = ""; // of the present connection
  #identity = null; // isolated: what it takes to take the channel up again
  #owner = null; // whose storage has been read
  #generation = 0; // of the connection attempt: what belongs to an earlier one is ignored
  #attempts = 0; // without progress
  #unheard = 0; // without any frame
  #dialled = false; // by this tab, not another
  #hadSocket = false;
  #streaming = false; // by Server-Sent Events
  #toldDelayMs = null;
  #lastToken = "";
  #refusedToken = "";
  #retry; #watch; #deadline; // timers
  #wake = () => {
    if (this.#state !== "waiting") this.#probe(PROBE_DEADLINE_MS);
    else if (!hidden() && !offline()) this.connect();
  };
  #farewell = () => this.#remember(true);

  constructor(options) {
    if (typeof (options?.token ?? options?.ticket) !== "function") {
      throw new TypeError("RuncastClient needs token: async () => string, or ticket: async () => string");
    }
    this.#options = { url: "/ws", mode: "main", isolationLevel: "standard", events: "all", transport: "auto", share: true, ...options };
    this.#listenToPage("addEventListener");
  }

  get state() { return this.#state; }

  get transport() { return this.#streaming ? "sse" : "websocket"; }

  get threadId() { return this.#options.threadId; }

  get cursor() { return this.#cursors.get(this.#channel) ?? null; }

  text(runId) { return this.#texts.get(runId)?.text ?? ""; }

  on(type, handler) {
    if (!this.#handlers.has(type)) this.#handlers.set(type, new Set());
    this.#handlers.get(type).add(handler);
    return () => this.#handlers.get(type).delete(handler);
  }

  connect(change = {}) {
    if (!MOVES[this.#state].open) return;
    if ("threadId" in change) this.#options.threadId = change.threadId;
    this.#open(this.#lastToken !== "" && this.#lastToken === this.#refusedToken);
  }

  disconnect() {
    this.#leave();
    this.#advance("drop");
  }

  close() {
    this.#leave();
    this.#listenToPage("removeEventListener");
    this.#rejectAll("closed", "the client was closed");
    this.#advance("close");
  }

  send(content, { threadId = this.#options.threadId, agent, metadata, id = newId() } = {}) {
    const sent = this.#request("user_message", { content, thread_id: threadId, agent, metadata }, { id, again: true });
    if (this.#state !== "closed") {
      const payload = { content, message_id: id, metadata: metadata ?? {} };
      const event = { type: "user_message", run_id: "", thread_id: threadId ?? "", agent_name: agent ?? "", payload };
      this.#emit("user_message", event, { origin: "local" });
    }
    return sent;
  }

  stop(runId) {
    return this.#request("stop_agent", { run_id: runId }, { again: true });
  }

  answer(runId, requestId, content) {
    return this.#request("user_input", { run_id: runId, request_id: requestId, content }, { again: true });
  }

  async attach(runId, { after } = {}) {
    this.#cursors.set(`run:${runId}`, after ?? null);
    try {
      const { cursor } = await this.#request("attach", { run_id: runId, after });
      this.#replayEnds.set(runId, cursor);
    } catch (error) { // unanswered, the next connection attaches
      if (!error.retryable && error.code !== "closed") this.#forget(runId);
      throw error;
    }
  }

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
      const token = this.#options.ticket ? "" : await this.#options.token({ fresh });
      if (generation !== this.#generation) return;
      if (token && fresh && token === this.#refusedToken) return this.#stop(4401, "the token was refused and there is no other");
      if (/[^\w.~+-]/.test(token)) return this.#stop(undefined, "the token has characters that no token has");
      this.#lastToken = token;
      this.#recall(ownerOf(token));
      const socket = await this.#dial();
      if (generation === this.#generation) this.#listen(socket);
      else socket.close(1000);
    } catch (error) {
      if (generation === this.#generation) this.#lose(undefined, error?.message ?? String(error));
    }
  }

  /** A socket of our own or, from runcast-tabs.js, the one that this user's tabs share. */
  async #dial() {
    const { share, ticket, mode, threadId, WebSocket = globalThis.WebSocket } = this.#options;
    const sse = this.#wantsSse();
    this.#dialled = false;
    const connect = async () => {
      const address = this.#resolveAddress();
      if (ticket) address.searchParams.set("ticket", await ticket());
      [this.#dialled, this.#streaming] = [true, sse];
      if (!sse) return new WebSocket(address, ticket ? [SUBPROTOCOL] : [SUBPROTOCOL, `jwt.${this.#lastToken}`]);
      const { EventStream } = await import("./runcast-sse.js");
      return new EventStream(address, { ...this.#options, token: async () => this.#lastToken || this.#options.token?.({ fresh: false }) });
    };
    const sharable = mode === "main" || (mode === "factory" && !this.#strict && threadId);
    if (!share || !sharable || !this.#owner || !globalThis.document || !globalThis.navigator?.locks) return connect();
    const tabs = await import("./runcast-tabs.js").catch(() => null);
    const address = this.#resolveAddress();
    const after = address.searchParams.get("after");
    address.searchParams.delete("after");
    return tabs ? new tabs.SharedSocket(`${address} ${this.#owner}`, { connect, after, texts: () => this.#openTexts() }) : connect();
  }

  /** Attempts that bring no frame at all look the same when WebSockets are blocked: then every second one is by SSE. */
  #wantsSse() {
    if (this.#options.transport !== "auto") return this.#options.transport === "sse";
    if (this.#unheard >= (this.#hadSocket ? LOST_AFTER : BLOCKED_AFTER)) return this.#unheard % 2 === 1;
    return this.#streaming && !this.#hadSocket;
  }

  #resolveAddress() {
    const { url, mode, threadId, isolationLevel, events, runId, after } = this.#options;
    const address = new URL(url, globalThis.location?.href);
    address.protocol = address.protocol.replace(/^http/, "ws");
    const set = (name, value) => value && address.searchParams.set(name, value);
    set("mode", mode);
    if (mode === "legacy") return address;
    if (events !== "all") set("events", events);
    let channel = mode;
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
    const cursor = this.#cursors.get(channel) ?? after ?? this.#seenUpTo.get(channel);
    set("after", cursor);
    if (cursor) this.#cursors.set(channel, cursor);
    this.#channel = channel;
    return address;
  }

  #listen(socket) {
    this.#socket = socket;
    let heard = false;
    const ours = (act) => (event) => socket === this.#socket && act(event);
    socket.onmessage = ours(({ data }) => {
      heard = true;
      this.#unheard = 0;
      this.#hadSocket ||= this.#dialled && !this.#streaming;
      this.#receive(data);
    });
    const lost = ours(({ code, reason }) => {
      if (!heard && !offline()) this.#unheard += 1;
      this.#closed(code, reason);
    });
    socket.onclose = lost;
    socket.onerror = () => {}; // a close follows
    this.#deadline = setTimeout(lost, CONNECT_DEADLINE_MS, { code: 1006, reason: "no answer" });
  }

  /** Without the closing handshake: on a dead network that takes a minute. */
  #leave() {
    this.#generation++;
    for (const timer of [this.#retry, this.#deadline, this.#watch]) clearTimeout(timer);
    const socket = this.#socket;
    this.#socket = null;
    if (socket?.readyState === 0) socket.onopen = () => socket.close(1000);
    else socket?.close(1000);
    for (const [id, { again, reject }] of this.#pending) {
      if (again) continue;
      this.#pending.delete(id);
      reject(new RuncastError("connection_lost", "the connection was lost before the answer", true));
    }
  }

  #closed(code, reason) {
    const then = CLOSE_CODES[code];
    if (then === "stop") return this.#stop(code, reason);
    if (then === "renew") this.#refusedToken = this.#lastToken;
    this.#lose(code, reason, then === "told" ? this.#toldDelayMs : undefined, then === "later");
  }

  /** Without a network, or unseen, nobody waits for it: then it tries seldom, and at once when that changes. */
  #lose(code, reason, delayMs, seldom) {
    this.#leave();
    this.#toldDelayMs = null;
    seldom ||= offline() || hidden();
    const retryInMs = delayMs ?? (seldom ? BACKOFF_LAST_MS * (0.5 + Math.random() / 2) : backoff(this.#attempts));
    this.#attempts += 1;
    this.#advance("lose", { code, reason, retryInMs, offline: offline() });
    if (this.#state === "waiting") this.#retry = setTimeout(() => this.connect(), retryInMs);
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
    switch (type) {
      case "connection_established":
        clearTimeout(this.#deadline);
        this.#welcome(payload);
        break;
      case "live":
        if (compareCursors(payload.cursor, this.cursor) > 0) this.#moveTo(this.#channel, payload.cursor);
        this.#level();
        break;
      case "resync":
        this.#rewind(payload);
        break;
      case "token_expiring":
        if (this.#options.token) this.#refresh();
        break;
      case "draining":
        this.#toldDelayMs = payload.reconnect_after_ms ?? null;
    }
  }

  #welcome(payload) {
    const { mode, threadId } = this.#options;
    if (mode === "isolated" && payload.secret) {
      this.#identity = { connection: payload.connection_id, secret: payload.secret };
    }
    if (mode === "factory" && payload.thread_id && !threadId) {
      this.#options.threadId = payload.thread_id;
      if (!this.#strict) this.#channel = `thread:${payload.thread_id}`;
    }
    const channel = this.#channel;
    // Whoever begins "from now on" begins here, and comes back to here if lost before its first event.
    if (channel && channel !== "run:" && !this.#cursors.get(channel)) this.#moveTo(channel, payload.cursor ?? null);
    this.#advance("welcome");
    this.#keepWatch((payload.heartbeat_seconds ?? 25) * 1000);
    if (mode === "legacy") this.#level(); // which has no replay to wait for
    for (const { frame } of this.#pending.values()) this.#transmit(frame);
    if (!this.#strict) return;
    for (const run of this.#openRuns()) if (channel !== `run:${run}`) this.#reattach(run);
  }

  #reattach(run) {
    this.attach(run, { after: this.#cursors.get(`run:${run}`) ?? undefined }).catch(() => {});
  }

  #level() {
    if (this.#state !== "catching_up") return;
    this.#attempts = 0;
    this.#seenUpTo.set(this.#channel, "0-0"); // from here on all that is replayed was missed
    this.#advance("level");
  }

  /** Go on from where the server does; what it repeats is known by its identity. */
  #rewind({ from, run_id: runId }) {
    if (!from) return;
    const channels = this.#strict ? (runId ? [runId] : this.#openRuns()).map((run) => `run:${run}`) : [this.#channel];
    for (const channel of channels) if (channel) this.#moveTo(channel, from);
  }

  #event(event) {
    const { id, type, run_id: run, parent_run_id: parent, payload } = event;
    if (parent) this.#roots.set(run, this.#roots.get(parent) ?? parent);
    const root = this.#roots.get(run) ?? run;
    const channel = this.#strict ? `run:${root}` : this.#channel;
    if (id) {
      const identity = [run, type, event.seq ?? payload.message_id ?? payload.request_id, event.attempt, event.timestamp].join(" ");
      if (compareCursors(id, this.#cursors.get(channel)) <= 0) return;
      this.#moveTo(channel, id);
      if (this.#seen.has(identity)) return;
      this.#seen.add(identity);
      if (this.#seen.size > REMEMBERED_EVENTS) this.#seen.delete(this.#seen.values().next().value);
    }
    this.#attempts = 0;
    if (type === "agent_started") this.#texts.delete(run); // of an attempt before
    if (type === "agent_completed") this.#endText(run, payload.response);
    const replayed = this.#state === "catching_up" || compareCursors(id, this.#replayEnds.get(root)) <= 0;
    const context = { origin: replayed ? this.#originOf(channel, id) : "live" };
    this.#emit(type, event, context);
    if (LIFECYCLE.includes(type)) this.#emit("event", event, context);
    if (type !== "agent_completed") return;
    this.#roots.delete(run);
    if (run === root) this.#forget(run);
  }

  #originOf(channel, id) {
    const seen = this.#seenUpTo.get(channel);
    return seen && !(compareCursors(id, seen) <= 0) ? "resumed" : "history";
  }

  /** Text that follows what is here, or starts anew; after a hole the server sends the whole. */
  #delta(event) {
    const { offset, next, text } = event.payload;
    const run = event.run_id;
    const known = offset === 0 && this.#texts.get(run)?.next !== null ? { next: 0, text: "" } : this.#texts.get(run);
    if (known?.next !== offset) return;
    const whole = known.text + text;
    this.#texts.set(run, { next, text: whole, event });
    const origin = this.#state === "catching_up" ? this.#originOf(this.#channel) : "live";
    this.#emit("agent_delta", event, { origin, text: whole });
  }

  #endText(run, response) {
    const text = typeof response === "string" ? response : this.text(run);
    this.#texts.delete(run);
    this.#texts.set(run, { next: null, text });
    const over = [...this.#texts].filter(([, { next }]) => next === null);
    if (over.length > REMEMBERED_TEXTS) this.#texts.delete(over[0][0]);
  }

  /** For a tab that joins. */
  #openTexts() {
    return [...this.#texts.values()].filter(({ next }) => next !== null)
      .map(({ event, next, text }) => ({ ...event, payload: { offset: 0, next, text } }));
  }

  // ---- requests

  #request(type, payload, { id = newId(), again = false } = {}) {
    if (this.#state === "closed") return Promise.reject(new RuncastError("closed", "the client was closed"));
    const frame = { type, id, payload };
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { frame, again, resolve, reject });
      if (this.#state === "live" || this.#state === "catching_up") this.#transmit(frame);
      else if (this.#generation === 0) this.connect();
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
    if (type === "error") return request.reject(new RuncastError(payload.code, payload.message, payload.retryable));
    if (type === "run_accepted" && this.#strict && !this.#cursors.has(`run:${payload.run_id}`)) this.#begin(payload);
    request.resolve(payload);
  }

  /** Factory strict: a run of one's own is followed from its beginning. */
  #begin({ run_id: runId, duplicate }) {
    this.#moveTo(`run:${runId}`, "0-0");
    this.#seenUpTo.set(`run:${runId}`, "0-0");
    if (duplicate) this.#reattach(runId);
  }

  async #refresh() {
    const generation = this.#generation;
    try {
      const token = await this.#options.token({ fresh: true });
      if (generation !== this.#generation) return;
      if (!this.#options.ticket) this.#lastToken = token;
      await this.#request("auth_refresh", { token });
    } catch {
      // Then the server closes with 4401, and we ask again.
    }
  }

  /** A network that dies silently closes no socket. */
  #probe(deadlineMs) {
    if (this.#state !== "live" && this.#state !== "catching_up") return;
    const socket = this.#socket;
    const deadline = setTimeout(() => socket === this.#socket && this.#closed(1006, "no answer"), deadlineMs);
    this.#request("ping", {}).catch(() => {}).then(() => clearTimeout(deadline));
  }

  #keepWatch(everyMs) {
    clearTimeout(this.#watch);
    this.#watch = setInterval(() => this.#probe(PONG_DEADLINE_MS), everyMs);
  }

  // ---- what is kept in this tab

  /** Where an earlier page of this tab was. A copied tab must not take up the original's isolated channel. */
  #recall(owner) {
    if (this.#owner === owner) return;
    this.#owner = owner;
    try {
      const kept = this.#kept;
      if (this.#options.mode === "isolated") this.#storage.removeItem(this.#storageKey);
      this.#options.threadId ??= kept.threadId;
      this.#identity ??= kept.identity ?? null;
      for (const [channel, cursor] of Object.entries(kept.cursors ?? {})) {
        this.#seenUpTo.set(channel, cursor);
        if (this.#strict) this.#cursors.set(channel, cursor);
      }
    } catch {
      // Nothing is kept where storage is forbidden.
    }
  }

  #remember(leaving = false) {
    const { mode, threadId } = this.#options;
    if (this.#owner === null || mode === "legacy" || (mode === "isolated" && !leaving)) return;
    const kept = { identity: this.#identity };
    if (mode === "factory") kept.threadId = threadId;
    try {
      // Beside those of the page's other clients; runs end, and then are nobody's.
      kept.cursors = { ...(!this.#strict && this.#kept.cursors), ...Object.fromEntries(this.#cursors) };
      this.#storage.setItem(this.#storageKey, JSON.stringify(kept));
    } catch {
      // Then a reload begins anew.
    }
  }

  get #storage() {
    return "storage" in this.#options ? this.#options.storage : globalThis.sessionStorage;
  }

  get #kept() {
    return JSON.parse(this.#storage.getItem(this.#storageKey) ?? "{}");
  }

  get #storageKey() {
    const { url, mode, isolationLevel } = this.#options;
    return `runcast ${url} ${mode} ${isolationLevel} ${this.#owner}`;
  }

  #moveTo(channel, cursor) {
    this.#cursors.set(channel, cursor);
    this.#remember();
  }

  // ---- the rest

  get #strict() {
    return this.#options.mode === "factory" && this.#options.isolationLevel === "strict";
  }

  #openRuns() {
    return [...this.#cursors.keys()].filter((channel) => /^run:./.test(channel)).map((channel) => channel.slice(4));
  }

  #forget(runId) {
    for (const remembered of [this.#cursors, this.#seenUpTo]) remembered.delete(`run:${runId}`);
    this.#replayEnds.delete(runId);
    if (this.#options.runId === runId) this.#options.runId = undefined;
  }

  #rejectAll(code, message) {
    for (const { reject } of this.#pending.values()) reject(new RuncastError(code, message));
    this.#pending.clear();
  }

  #listenToPage(verb) {
    for (const occurrence of ["online", "offline"]) globalThis[verb]?.(occurrence, this.#wake);
    globalThis.document?.[verb]("visibilitychange", this.#wake);
    globalThis[verb]?.("pagehide", this.#farewell);
  }

  #advance(occurrence, detail = {}) {
    const next = MOVES[this.#state][occurrence];
    if (!next) return;
    const previous = this.#state;
    this.#state = next;
    this.#emit("state", { state: next, previous, ...detail });
  }

  /** A handler that throws is its page's bug, and costs no other handler the event. */
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
