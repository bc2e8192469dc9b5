/** Who may log in here and how a token is had: from the demo's own endpoints, or pasted by the user. */

const RENEW_BEFORE_MS = 30_000;

/** @typedef {{id: string, name: string}} Person */

export class Access {
  #tokens = new Map(); // person → {token, expiresAt}, in memory only

  /** @param {{users?: Person[], agents?: string[], samples?: {title: string, content: string}[]} | null} session */
  constructor(session) {
    this.demo = session !== null;
    this.people = session?.users ?? [];
    this.agents = session?.agents ?? [];
    this.samples = session?.samples ?? [];
  }

  /** Ask this gateway whether it is a demo. */
  static async find() {
    try {
      const response = await fetch("/demo/session");
      return new Access(response.ok ? await response.json() : null);
    } catch {
      return new Access(null);
    }
  }

  /**
   * A token for a person; `fresh` when the one before will not do.
   * @param {Person & {token?: string}} person
   * @returns {Promise<string>}
   */
  async token(person, { fresh }) {
    if (!this.demo) return person.token;
    const known = this.#tokens.get(person.id);
    if (known && !fresh && known.expiresAt - Date.now() > RENEW_BEFORE_MS) return known.token;
    const response = await fetch("/demo/token", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ user: person.id }),
    });
    if (!response.ok) throw new Error(`no token: HTTP ${response.status}`);
    const { token, expires_at: expiresAt } = await response.json();
    this.#tokens.set(person.id, { token, expiresAt: Date.parse(expiresAt) });
    return token;
  }

  /** Whom a pasted token says it is for. Only to greet them: who they are is decided by the server. @returns {Person & {token: string}} */
  personOf(token) {
    try {
      const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
      const bytes = Uint8Array.from(atob(claims), (letter) => letter.charCodeAt(0));
      const { sub } = JSON.parse(new TextDecoder().decode(bytes));
      if (typeof sub === "string" && sub) return { id: sub, name: sub, token };
    } catch {
      // The server will say what is wrong with it.
    }
    return { id: "you", name: "you", token };
  }
}
