/**
 * For runcast.js, where WebSockets are blocked: `GET /sse` and the HTTP twins of the client's frames, looking like a
 * WebSocket. By `fetch`, since an EventSource cannot set headers.
 */

const CLOSE_CODES = { 400: 4400, 401: 4401, 403: 4403, 429: 4429, 503: 4503 };
const RETRYABLE = [429, 503];
const ROUTES = /\/(api\/v1\/websocket|websocket|ws(\/factory|\/isolated)?)$/;

/** Server-Sent Events as they come, each `data` handed on; anything at all, comments too, is a sign of life. */
async function read(body, take, alive) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let [rest, data] = ["", []];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      if (line !== "") continue;
      if (data.length > 0) take(data.join("\n"));
      data = [];
    }
  }
}

export class EventStream {
  readyState = 0;
  onopen = null;
  onmessage = null;
  onclose = null;
  #address;
  #base;
  #options;
  #token;
  #welcome = {};
  #streams = new Map(); // "" and, in factory strict, each run beside the first → what aborts its stream
  #heard = false; // since the last ping
  #ping = null; // the one that waits for a sign of life

  /** `address` as of a WebSocket; `token` gives the bearer, or nothing where a ticket is in the address. */
  constructor(address, { token, mode, isolationLevel, fetch = globalThis.fetch }) {
    this.#address = new URL(address);
    this.#address.protocol = this.#address.protocol.replace(/^ws/, "http");
    this.#base = this.#address.origin + this.#address.pathname.replace(ROUTES, "");
    this.#options = { mode, isolationLevel, fetch: fetch.bind(globalThis) };
    this.#token = token;
    this.#open("", this.#address.search, (data) => this.onmessage?.({ data }));
  }

  /** A frame of the client, by its HTTP twin; the answer comes as the reply of a socket would. */
  send(text) {
    const { type, id, payload } = JSON.parse(text);
    const act = this[type]?.bind(this) ?? (() => this.#reply(id, "error", { code: "unknown_type", message: type, retryable: false }));
    act(payload, id).catch((error) => this.#end(1006, error.message));
  }

  close() {
    this.onclose = this.onmessage = null;
    this.#end(1000);
  }

  async user_message(payload, id) {
    const { mode, isolationLevel } = this.#options;
    const { connection_id: connection, secret, thread_id } = this.#welcome;
    const level = mode === "factory" && { isolation_level: isolationLevel };
    const own = mode === "isolated" && { connection, secret };
    const accepted = await this.#post(id, "messages", { thread_id, ...payload, id, mode, ...level, ...own }, "run_accepted");
    if (accepted && isolationLevel === "strict" && level) this.#follow(accepted.run_id, "0-0");
  }

  async stop_agent({ run_id: run }, id) {
    await this.#post(id, `runs/${encodeURIComponent(run)}/stop`, {});
  }

  async user_input({ run_id: run, ...answer }, id) {
    await this.#post(id, `runs/${encodeURIComponent(run)}/input`, answer);
  }

  async attach({ run_id: run, after }, id) {
    this.#follow(run, after, ({ cursor }) => this.#reply(id, "ok", { cursor }));
  }

  async detach({ run_id: run }, id) {
    this.#streams.get(run)?.abort();
    this.#streams.delete(run);
    this.#reply(id, "ok", {});
  }

  /** A stream has the token that it began with: with another, another stream from the cursor. */
  async auth_refresh(_, id) {
    this.#reply(id, "ok", {});
    this.#end(1012, "with the new token");
  }

  async ping(payload, id) {
    this.#ping = () => this.#reply(id, "pong", payload);
    if (this.#heard) this.#alive();
    this.#heard = false;
  }

  #alive() {
    this.#heard = true;
    this.#ping?.();
    this.#ping = null;
  }

  /** Factory strict: one more stream for one more run; only what is of the run goes on. */
  #follow(run, after, established) {
    if (this.#streams.has(run) || this.#address.searchParams.get("run_id") === run) return;
    const query = new URLSearchParams(this.#address.search);
    query.set("run_id", run);
    if (after) query.set("after", after);
    else query.delete("after");
    this.#open(run, `?${query}`, (data) => {
      const { type, id, payload } = JSON.parse(data);
      if (type === "connection_established") established?.(payload);
      if (id || type === "agent_delta" || type === "resync") this.onmessage?.({ data });
    });
  }

  async #open(name, query, take) {
    const stop = new AbortController();
    this.#streams.set(name, stop);
    try {
      const after = new URLSearchParams(query).get("after");
      const headers = { Accept: "text/event-stream", ...(after && { "Last-Event-ID": after }), ...(await this.#bearer()) };
      const address = `${this.#base}/sse${query}`;
      const response = await this.#options.fetch(address, { headers, signal: stop.signal, cache: "no-store" });
      if (!response.ok) return this.#end(CLOSE_CODES[response.status] ?? 1006, `HTTP ${response.status}`);
      this.readyState = 1;
      this.onopen?.();
      await read(response.body, (data) => {
        if (name === "" && data.startsWith('{"type":"connection_established"')) this.#welcome = JSON.parse(data).payload;
        if (!data.startsWith('{"type":"closing"')) return take(data);
        const { code, reason } = JSON.parse(data).payload;
        this.#end(code, reason);
      }, () => this.#alive());
      this.#end(1006, "the stream ended");
    } catch (error) {
      if (!stop.signal.aborted) this.#end(1006, error.message);
    }
  }

  /** The answer's body, or nothing when it was refused; a token that was not good enough ends the stream. */
  async #post(id, path, body, type = "ok") {
    const { fetch } = this.#options;
    const headers = { "Content-Type": "application/json", ...(await this.#bearer()) };
    const response = await fetch(`${this.#base}/api/v1/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    const answer = await response.json().catch(() => ({}));
    if (response.ok) {
      this.#reply(id, type, answer);
      return answer;
    }
    if (response.status === 401 && headers.Authorization) return this.#end(4401, answer.detail);
    const { code = "internal", detail: message = `HTTP ${response.status}` } = answer;
    return this.#reply(id, "error", { code, message, retryable: RETRYABLE.includes(response.status) });
  }

  async #bearer() {
    const token = await this.#token();
    return token ? { Authorization: `Bearer ${token}` } : {};
  }

  #reply(ref, type, payload) {
    this.onmessage?.({ data: JSON.stringify({ type, ref, payload }) });
  }

  #end(code, reason) {
    this.readyState = 3;
    for (const stop of this.#streams.values()) stop.abort();
    const told = this.onclose;
    this.onclose = this.onmessage = null;
    told?.({ code, reason });
  }
}
