/** Asking the gateway: with the operator's token, in words when it refuses, and again when it is silent. */

export const ADMIN = "/api/v1/admin";
const PATIENCE_MS = 10_000;

const WORDS = {
  unauthorized: "A token is needed.",
  operator_required: "This is not an operator’s token, or it has expired or been revoked.",
  not_allowed: "An operator of another tenant may not do that.",
  run_not_found: "No such run is known: it may have ended longer ago than runs are kept.",
  node_not_found: "That gateway is not there any more.",
  broker_unavailable: "The gateway cannot reach Redis.",
  keys_unavailable: "The gateway cannot fetch the keys that tokens are checked with.",
};

/** The gateway answered, and the answer is no. */
export class Refused extends Error {
  /** @param {number} status @param {{code?: string, detail?: string}} problem */
  constructor(status, { code = "", detail = "" }) {
    super(WORDS[code] ?? (detail || `The gateway refused with ${status}.`));
    this.status = status;
    this.code = code;
  }

  /** Whether who asks may not, whatever he does. */
  get forbidden() {
    return this.status === 401 || this.status === 403;
  }
}

/** There was no answer, or none that can be read. */
export class Unreachable extends Error {
  constructor() {
    super("No answer from this gateway.");
  }
}

export class Source {
  /** @param {string | null} token  Only ever sent in the header. */
  constructor(token) {
    this.token = token;
  }

  /** The answer's JSON. @param {string} path */
  get(path) {
    return this.#ask(path, {});
  }

  /** @param {string} path @param {object} body */
  post(path, body) {
    return this.#ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  }

  async #ask(path, { headers = {}, ...options }) {
    if (this.token !== null) headers.Authorization = `Bearer ${this.token}`;
    let response, body;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
      body = await response.json();
    } catch {
      throw new Unreachable();
    }
    // What is not healthy answers 503, and says more than a refusal would.
    if (!response.ok && body.checks === undefined) throw new Refused(response.status, body);
    return body;
  }
}

/** The path of a user, or of a run of theirs: ids may have any letters. */
export function pathOf(userId, ...rest) {
  return [ADMIN, "users", encodeURIComponent(userId), ...rest.map(encodeURIComponent)].join("/");
}

/**
 * Asks for several things, each in its own rhythm, for as long as the page lives; when something is not
 * answered, with back-off.
 */
export class Poller {
  #timer = 0;
  #failures = 0;
  #asking = false;
  data = {};
  goodSince = null; // when everything was answered last

  /**
   * @param {Source} source
   * @param {{name: string, path: () => string, seconds: number}[]} feeds
   * @param {{onData: (changed: Set<string>) => void, onTrouble: (error: Error | null) => void, onForbidden: (feed: string, error: Refused) => void}} handlers
   */
  constructor(source, feeds, handlers) {
    this.source = source;
    this.feeds = feeds.map((feed) => ({ ...feed, due: 0 }));
    this.handlers = handlers;
  }

  start() {
    this.now();
  }

  stop() {
    clearTimeout(this.#timer);
    this.handlers = null;
  }

  /** Do not wait. @param {...string} names  These are due now, too. */
  now(...names) {
    for (const feed of this.feeds) if (names.includes(feed.name)) feed.due = 0;
    clearTimeout(this.#timer);
    if (!this.#asking) this.#tick();
  }

  async #tick() {
    this.#asking = true;
    const began = Date.now();
    const due = this.feeds.filter((feed) => !feed.closed && feed.due <= began);
    const changed = new Set();
    let trouble = null;
    await Promise.all(due.map(async (feed) => {
      try {
        this.data[feed.name] = await this.source.get(feed.path());
        feed.due = began + feed.seconds * 1000 - 200;
        changed.add(feed.name);
      } catch (error) {
        if (error instanceof Refused && error.forbidden) {
          feed.closed = true;
          this.handlers?.onForbidden(feed.name, error);
        } else {
          trouble = error;
        }
      }
    }));
    this.#asking = false;
    if (this.handlers === null) return;
    this.#failures = trouble ? this.#failures + 1 : 0;
    if (!trouble) this.goodSince = Date.now();
    this.handlers.onTrouble(trouble);
    this.handlers.onData(changed);
    const pause = trouble ? Math.min(15_000, 1000 * 2 ** this.#failures) * (0.5 + Math.random() / 2) : 1000;
    this.#timer = setTimeout(() => this.#tick(), pause);
  }
}
