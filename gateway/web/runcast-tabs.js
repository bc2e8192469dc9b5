/**
 * For runcast.js: the tabs of one user share one socket. The tab that holds the Web Lock has it and tells the others
 * all that it hears by BroadcastChannel; they send through it. Each tab keeps a cursor of its own, so that a tab that
 * joins late, or finds its leader gone, is given what came after it. Where the leader cannot prove that it has all of
 * that, the tab reads it by a socket of its own first.
 */

const KEPT = 2_000; // events, as many as a log usually retains
const LEADER_DEADLINE_MS = 2_000; // what does not answer for so long is frozen
const FOLLOWER_HEARTBEAT_SECONDS = 5; // asking another tab costs nothing
const LAST_WORD_MS = 50; // why a leader went comes by another way than that it did
const GONE = { code: 1012, reason: "the tab with the connection is gone" };
const FOR_ALL = [1001, 4429, 4503]; // close codes that say when to come back, to whomever

/** What a leader has heard, so that others can go on from any place in it. */
class Heard {
  #events = []; // [id, data]
  #places = new Map(); // cursor → how many events came before it, those that were dropped included
  #dropped = 0;
  last = null;

  constructor(start) {
    this.at(start);
  }

  /** A place that is certain: nothing is missing between it and the next event. */
  at(cursor) {
    if (!cursor) return;
    this.last = cursor;
    this.#places.set(cursor, this.#dropped + this.#events.length);
  }

  add(id, data) {
    this.#events.push(data);
    this.at(id);
    if (this.#events.length <= KEPT) return;
    this.#events.shift();
    this.#dropped += 1;
    for (const [cursor, before] of this.#places) {
      if (before >= this.#dropped) break;
      this.#places.delete(cursor);
    }
  }

  /** Null when `cursor` is no place in it. */
  after(cursor) {
    const before = this.#places.get(cursor);
    return before === undefined ? null : this.#events.slice(before - this.#dropped);
  }
}

export class SharedSocket {
  readyState = 1; // `close` lets go by itself of what is still being connected
  onmessage = null;
  onclose = null;
  #me = crypto.getRandomValues(new Uint32Array(2)).join("-");
  #name;
  #options;
  #channel;
  #role = "candidate"; // "leader", "follower", or "direct": with a socket of its own for the time being
  #leader = "";
  #last; // cursor of what this tab has
  #socket = null;
  #welcome = null;
  #isLive = false;
  #heard;
  #joining = new Map(); // tab → its cursor, until there is something to give it
  #routes = new Map(); // request id → the tab that asked
  #over = new AbortController();
  #release = () => {};
  #silence;

  /**
   * `connect` opens a socket from this tab's cursor; `after` is that cursor; `texts` are open runs' texts as frames.
   */
  constructor(name, { connect, after, texts }) {
    this.#name = `runcast ${name}`;
    this.#options = { connect, texts };
    this.#last = after;
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#campaign({ signal: this.#over.signal });
    this.#join();
    this.#listen();
  }

  send(text) {
    if (this.#socket) this.#socket.send(text);
    else this.#post({ to: this.#leader, send: text });
  }

  close(code) {
    this.onclose = this.onmessage = null;
    this.#end({ code });
  }

  // ---- who leads

  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#role === "candidate" && this.#campaign({ steal: true }), LEADER_DEADLINE_MS);
  }

  #campaign(options) {
    const held = () => this.#over.signal.aborted ? undefined : new Promise((release) => {
      this.#release = release;
      this.#elected();
    });
    // Rejected when it is given up, or when another tab took it: then this one was frozen.
    navigator.locks.request(this.#name, options, held).catch(() => this.#role === "leader" && this.#end(GONE));
  }

  #elected() {
    clearTimeout(this.#silence);
    if (this.#role === "follower") {
      setTimeout(() => this.#end(GONE), LAST_WORD_MS);
      return;
    }
    const connected = this.#role === "direct";
    this.#role = "leader";
    this.#post({ lead: true });
    if (!connected) this.#connect();
  }

  async #connect() {
    this.#heard = new Heard(this.#last);
    try {
      const socket = await this.#options.connect();
      this.#socket = socket;
      if (this.#over.signal.aborted || this.#role === "follower") return this.#letGo();
      socket.onmessage = ({ data }) => socket === this.#socket && this.#receive(data);
      socket.onclose = (event) => socket === this.#socket && this.#end(event);
      socket.onerror = () => {};
    } catch (error) {
      this.#end({ code: 1006, reason: error.message });
    }
  }

  #letGo() {
    const socket = this.#socket;
    this.#socket = null;
    if (socket?.readyState === 0) socket.onopen = () => socket.close(1000);
    else socket?.close(1000);
  }

  #end(event) {
    if (this.#over.signal.aborted) return;
    this.#over.abort();
    clearTimeout(this.#silence);
    if (this.#role === "leader") this.#post({ gone: FOR_ALL.includes(event.code) ? { code: event.code } : GONE });
    this.#release();
    this.#letGo();
    this.#channel.close();
    this.onclose?.(event);
  }

  // ---- with a socket

  #receive(data) {
    const frame = JSON.parse(data);
    const { type, id, ref, payload = {} } = frame;
    const asked = this.#routes.get(ref);
    if (asked) {
      this.#routes.delete(ref);
      return this.#post({ to: asked, frames: [data] });
    }
    if (type === "connection_established") {
      this.#welcome = frame;
      if (!this.#last) this.#heard.at(payload.cursor);
    } else if (type === "resync") {
      this.#heard = new Heard(payload.from);
    } else if (type === "live") {
      this.#isLive = true;
      this.#heard.at(payload.cursor);
    } else if (id) {
      this.#heard.add(id, data);
      this.#last = id;
    }
    this.onmessage?.({ data });
    if (this.#role === "leader") {
      if (type === "connection_established") for (const [tab, place] of this.#joining) this.#answer(tab, place);
      else if (ref === undefined && type !== "token_expiring") this.#post({ frames: [data] });
    } else if (this.#isLive && (type === "live" || id)) {
      this.#last = this.#heard.last;
      this.#join();
    }
  }

  #answer(tab, after) {
    const events = after ? this.#heard.after(after) : [];
    if (events === null) return this.#post({ to: tab, far: true });
    const { last: cursor } = this.#heard;
    const payload = { ...this.#welcome.payload, cursor, heartbeat_seconds: FOLLOWER_HEARTBEAT_SECONDS };
    const frames = [JSON.stringify({ ...this.#welcome, payload }), ...events, ...this.#options.texts().map((text) => JSON.stringify(text))];
    if (this.#isLive) frames.push(JSON.stringify({ type: "live", payload: { cursor } }));
    return this.#post({ to: tab, joined: true, frames });
  }

  // ---- between tabs

  #join() {
    this.#post({ join: true, after: this.#last });
  }

  #post(message) {
    if (!this.#over.signal.aborted || message.gone) this.#channel.postMessage({ ...message, from: this.#me });
  }

  #hear({ from, to, join, after, send, lead, wait, far, joined, gone, frames }) {
    if (this.#over.signal.aborted || (to && to !== this.#me)) return;
    if (lead && this.#role === "candidate") {
      this.#join();
      this.#listen();
    }
    if (lead && this.#role === "follower" && from !== this.#leader) return this.#end(GONE);
    if (join && this.#role === "leader") {
      if (this.#welcome) this.#answer(from, after);
      else this.#joining.set(from, after);
      if (!this.#welcome) this.#post({ to: from, wait: true });
    }
    if (send && this.#role === "leader") this.#relay(from, send);
    if (wait) clearTimeout(this.#silence);
    if (far && this.#role === "candidate") {
      clearTimeout(this.#silence);
      this.#role = "direct";
      this.#connect();
    }
    if (joined && (this.#role === "candidate" || this.#role === "direct")) {
      clearTimeout(this.#silence);
      this.#role = "follower";
      this.#leader = from;
      this.#letGo();
    }
    if (this.#role !== "follower" || from !== this.#leader) return;
    if (gone) return this.#end(gone);
    for (const data of frames ?? []) this.onmessage?.({ data });
  }

  #relay(tab, text) {
    const { type, id, payload } = JSON.parse(text);
    if (type === "ping") return this.#post({ to: tab, frames: [JSON.stringify({ type: "pong", ref: id, payload })] });
    if (id) this.#routes.set(id, tab);
    this.#socket?.send(text);
  }
}
