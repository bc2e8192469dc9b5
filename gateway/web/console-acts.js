/** What an operator can do: asked once more, done, and told how it went. */

import { element } from "./dom.js";
import { clock } from "./format.js";
import { ADMIN, pathOf } from "./console-source.js";

const MOST_RESULTS = 4;

const part = (id) => document.getElementById(id);

/** Say how something went; the last few stay to be read. @param {"good" | "bad"} tone @param {string} text */
export function tell(tone, text) {
  const results = part("results");
  const line = element("p", { data: { tone } },
    element("span", { class: "time", text: clock(Date.now()) }), element("span", { text }),
    element("button", { class: "quiet", type: "button", text: "Dismiss", onclick: () => line.remove() }));
  results.append(line);
  while (results.children.length > MOST_RESULTS) results.firstElementChild.remove();
}

/** The reason that was given, "" without one; null when it is not to be done. */
function confirmed({ title, text, button }) {
  const dialog = part("confirm");
  part("confirmTitle").textContent = title;
  part("confirmText").textContent = text;
  part("agree").textContent = button;
  part("reason").value = "";
  dialog.returnValue = "";
  const opener = document.activeElement;
  return new Promise((resolve) => {
    const refuse = () => dialog.close("");
    part("refuse").addEventListener("click", refuse);
    part("confirmForm").onsubmit = (event) => {
      event.preventDefault();
      dialog.close("agreed");
    };
    dialog.addEventListener("close", () => {
      part("refuse").removeEventListener("click", refuse);
      if (opener?.isConnected) opener.focus();
      resolve(dialog.returnValue === "agreed" ? part("reason").value.trim() : null);
    }, { once: true });
    dialog.showModal();
    part("refuse").focus(); // Enter alone does no harm
  });
}

const ofTenant = (tenant) => (tenant ? ` of tenant ${tenant}` : "");

export class Acts {
  /** @param {import("./console-source.js").Source} source @param {() => void} onDone  Something may be otherwise now. */
  constructor(source, onDone) {
    this.source = source;
    this.onDone = onDone;
  }

  stop({ run_id, user_id, tenant, agent_name }) {
    return this.#act({
      title: "Stop this run?",
      text: `Run ${run_id} of agent ${agent_name}, of user ${user_id}${ofTenant(tenant)}, is asked to stop. The user gets its end as cancelled; what it did so far stays.`,
      button: "Stop the run",
      path: `${pathOf(user_id, "runs", run_id)}/stop`,
      body: tenant ? { tenant } : {},
      done: `Run ${run_id} was asked to stop.`,
    });
  }

  disconnect({ user_id, tenant }) {
    return this.#act({
      title: "Disconnect this user?",
      text: `All connections of user ${user_id}${ofTenant(tenant)} are closed, on every gateway. Clients that reconnect come back at once and miss nothing.`,
      button: "Disconnect the user",
      path: `${pathOf(user_id)}/disconnect`,
      body: tenant ? { tenant } : {},
      done: `User ${user_id}${ofTenant(tenant)} was disconnected.`,
    });
  }

  drain({ node_id, connections }) {
    return this.#act({
      title: "Drain this gateway?",
      text: `Gateway ${node_id} takes no new connections and sends its ${connections.total} away, a few at a time. This cannot be undone: the process must be started again to serve.`,
      button: "Drain the gateway",
      path: `${ADMIN}/nodes/${encodeURIComponent(node_id)}/drain`,
      body: {},
      done: `Gateway ${node_id} drains.`,
    });
  }

  async #act({ path, body, done, ...question }) {
    const reason = await confirmed(question);
    if (reason === null) return;
    try {
      await this.source.post(path, reason ? { ...body, reason } : body);
      tell("good", done);
    } catch (error) {
      tell("bad", `${question.button}: not done. ${error.message}`);
    }
    this.onDone();
  }
}
