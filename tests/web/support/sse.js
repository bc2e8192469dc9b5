/** A gateway without WebSockets: `GET /sse` and the HTTP twins as protocol section 7 says, and nothing else. */

import { once } from "node:events";
import { createServer } from "node:http";
import { until } from "./script.js";

export class Stream {
  constructor(request, response) {
    const { searchParams } = new URL(request.url, "http://here");
    this.query = Object.fromEntries(searchParams);
    this.headers = request.headers;
    this.response = response;
  }

  /** Written as it is, in pieces of `size` bytes. */
  async raw(text, size = Infinity) {
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length; at += size) {
      await new Promise((done) => this.response.write(bytes.subarray(at, at + size), done));
      if (size < bytes.length) await new Promise((go) => setImmediate(go));
    }
  }

  send(type, payload = {}, fields = {}) {
    const id = fields.id ? `id: ${fields.id}\n` : "";
    return this.raw(`${id}data: ${JSON.stringify({ type, ...fields, payload })}\n\n`);
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

  end() {
    this.response.end();
  }
}

export class Gateway {
  #streams = [];
  #server;
  posts = []; // {path, headers, body}, as they came
  answers = {}; // path → [status, body]
  refusal = 0; // status of the next streams
  upgrades = 0;

  static async start() {
    const gateway = new Gateway();
    gateway.#server = createServer((request, response) => gateway.#serve(request, response));
    gateway.#server.on("upgrade", (_, socket) => {
      gateway.upgrades += 1;
      socket.destroy(); // as a proxy that knows no WebSockets does
    });
    gateway.#server.listen(0, "127.0.0.1");
    await once(gateway.#server, "listening");
    return gateway;
  }

  get url() {
    return `ws://127.0.0.1:${this.#server.address().port}/ws`;
  }

  async #serve(request, response) {
    const { pathname } = new URL(request.url, "http://here");
    if (request.method === "GET" && pathname === "/sse") {
      if (this.refusal) return response.writeHead(this.refusal, { "Content-Type": "application/problem+json" }).end("{}");
      response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
      response.flushHeaders();
      return this.#streams.push(new Stream(request, response));
    }
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = JSON.parse(Buffer.concat(chunks).toString());
    this.posts.push({ path: pathname, headers: request.headers, body });
    const [status, answer] = this.answers[pathname] ?? (pathname === "/api/v1/messages"
      ? [202, { run_id: `run of ${body.id}`, thread_id: body.thread_id ?? "made", agent: "a", duplicate: false }] : [200, {}]);
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(answer));
  }

  async stream() {
    await until(() => this.#streams.length > 0, "a stream");
    return this.#streams.shift();
  }

  async post(path) {
    const found = await until(() => this.posts.find((one) => one.path === path), `a POST to ${path}`);
    this.posts.splice(this.posts.indexOf(found), 1);
    return found;
  }

  async stop() {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }
}
