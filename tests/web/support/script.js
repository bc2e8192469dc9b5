/** A WebSocket server that a test plays: real sockets on this machine, every frame and every loss as the test says. */

import { once } from "node:events";
import { WebSocket, WebSocketServer } from "ws";

export { WebSocket };

/** Wait until something is so, and give what it is. */
export async function until(look, what = "it") {
  const deadline = Date.now() + 40_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`${what} did not come to be`);
    await new Promise((go) => setTimeout(go, 5));
  }
}

/** A token that names a user; nobody checks it here. */
export function tokenOf(sub, serial = 1) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "none" })}.${part({ sub, serial })}.x`;
}

/** One connection, seen from the server. */
export class Link {
  constructor(socket, request) {
    this.socket = socket;
    const { searchParams } = new URL(request.url, "ws://here");
    this.query = Object.fromEntries(searchParams);
    this.protocols = request.headers["sec-websocket-protocol"]?.split(/, */) ?? [];
    this.received = [];
    socket.on("message", (data) => this.received.push(JSON.parse(data)));
  }

  send(type, payload = {}, fields = {}) {
    this.socket.send(JSON.stringify({ type, ...fields, payload }));
  }

  welcome(cursor = "5-0", payload = {}) {
    this.send("connection_established", { cursor, heartbeat_seconds: 25, connection_id: "c1", ...payload });
    return this;
  }

  live(cursor = "5-0") {
    this.send("live", { cursor });
    return this;
  }

  event(id, type = "agent_thinking", payload = {}, run_id = "r1") {
    this.send(type, payload, { id, run_id, thread_id: "t1", agent_name: "a", seq: Number(id.replace("-", "")), timestamp: `at ${id}` });
    return this;
  }

  delta(offset, text, run_id = "r1") {
    this.send("agent_delta", { offset, next: offset + Buffer.byteLength(text), text }, { run_id, thread_id: "t1", agent_name: "a" });
    return this;
  }

  /** The first frame of a type that has not been taken yet. */
  async take(type) {
    const frame = await until(() => this.received.find((one) => one.type === type), `a ${type} frame`);
    this.received.splice(this.received.indexOf(frame), 1);
    return frame;
  }

  /** Lost without a word. */
  lose() {
    this.socket.terminate();
  }

  close(code, reason) {
    this.socket.close(code, reason);
  }
}

export class Script {
  #links = [];
  #server;
  count = 0;

  static async start(options = {}) {
    const script = new Script();
    script.#server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "runcast.v3", ...options });
    script.#server.on("connection", (socket, request) => {
      script.count += 1;
      script.#links.push(new Link(socket, request));
    });
    await once(script.#server, "listening");
    return script;
  }

  get url() {
    return `ws://127.0.0.1:${this.#server.address().port}/ws`;
  }

  /** The next connection, in the order in which they came. */
  async link() {
    await until(() => this.#links.length > 0, "a connection");
    return this.#links.shift();
  }

  get open() {
    return this.#server.clients.size;
  }

  async stop() {
    for (const socket of this.#server.clients) socket.terminate();
    await new Promise((done) => this.#server.close(done));
  }
}

/** `sessionStorage` of one tab. */
export class TabStorage {
  items = new Map();
  getItem(key) { return this.items.get(key) ?? null; }
  setItem(key, value) { this.items.set(key, value); }
  removeItem(key) { this.items.delete(key); }
}
