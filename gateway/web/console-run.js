/** One run, watched: what is known of it, and its events as they come; never what they say. */

import { element, setText } from "./dom.js";
import { age, clock, count, duration } from "./format.js";
import { pathOf, Refused } from "./console-source.js";

const WATCH_MS = 1000;
const LOST_MS = 4000;
const MOST_SHOWN = 500; // events; of a longer run the last ones
const STEPS = { agent_started: "started", agent_thinking: "thinking", tool_executing: "tool", tool_completed: "tool done", agent_completed: "completed" };

const WORDS = {
  user_message: "user’s message", agent_started: "started", agent_thinking: "thinking", tool_executing: "tool begins", tool_completed: "tool ends",
  input_required: "asks its user", user_input: "user answered", stop_requested: "stop requested", agent_completed: "completed",
};

/** The state of a run, in a word. */
export const stateOf = (run) => (run.status ?? (run.stop_requested ? "stopping" : run.held ? "held" : run.state));

export const toneOf = (run) => ({ succeeded: "good", failed: "bad", abandoned: "bad", cancelled: "warn", stopping: "warn", queued: "warn", held: "warn", waiting: "warn", running: "live" })[stateOf(run)];

/** What an event says of itself, besides its name. */
function details(event) {
  const said = [];
  if (event.tool) said.push(event.tool);
  if (event.success !== undefined) said.push(event.success ? "succeeded" : "failed");
  if (event.status) said.push(event.status);
  if (event.duration_ms !== undefined) said.push(`took ${duration(event.duration_ms)}`);
  if (event.step !== undefined) said.push(`step ${event.step}`);
  if (event.progress !== undefined) said.push(`${Math.round(event.progress * 100)} %`);
  if (event.error_code) said.push(`error ${event.error_code}`);
  if (event.missing?.length) said.push(`never sent: ${event.missing.join(", ")}`);
  if (event.attempt > 1) said.push(`attempt ${event.attempt}`);
  return said.join(" · ");
}

function toneOfEvent({ success, status, type }) {
  if (success === false || status === "failed" || status === "abandoned") return "bad";
  if (success || status === "succeeded") return "good";
  return type === "stop_requested" || type === "input_required" || status ? "warn" : "";
}

export class RunPanel {
  #timer = 0;
  #run = null;
  #cursor = null;
  #first = null; // when its first event was
  #watch = 0;

  /** @param {HTMLElement} root @param {() => import("./console-source.js").Source} source @param {() => import("./console-acts.js").Acts} acts */
  constructor(root, source, acts) {
    this.root = root;
    this.source = source;
    this.acts = acts;
    this.title = element("h3", { id: "panelTitle", tabindex: "-1" });
    this.state = element("span", { class: "tag" });
    this.stop = element("button", { class: "quiet danger", type: "button", text: "Stop run…", onclick: () => this.acts().stop(this.#run) });
    this.user = element("button", { class: "quiet danger", type: "button", text: "Disconnect user…", onclick: () => this.acts().disconnect(this.#run) });
    this.facts = element("dl", { class: "facts" });
    this.steps = element("ol", { class: "five", "aria-label": "The five events" }, ...Object.entries(STEPS).map(([type, text]) => element("li", { text, data: { type } })));
    this.events = element("ol", { class: "events", role: "log", "aria-label": "Events of the run", tabindex: "0" });
    this.note = element("p", { class: "small soft", role: "status" });
    root.append(
      element("div", { class: "head" }, element("div", { class: "titled" }, this.title, this.state),
        element("div", { class: "controls" }, this.stop, this.user, element("button", { class: "quiet", type: "button", text: "Close", onclick: () => this.close() }))),
      this.facts, this.steps, this.events, this.note);
  }

  /** Watch this run. @param {any} run  A row of the list. */
  open(run) {
    this.close();
    this.#run = run;
    this.events.replaceChildren();
    setText(this.note, "Loading …");
    this.#show(run);
    this.root.hidden = false;
    this.title.focus();
    this.#look(++this.#watch);
  }

  close() {
    clearTimeout(this.#timer);
    this.#watch += 1;
    this.#run = this.#cursor = this.#first = null;
    this.root.hidden = true;
  }

  async #look(watch) {
    const { user_id, run_id, tenant } = this.#run;
    const query = new URLSearchParams();
    if (tenant) query.set("tenant", tenant);
    if (this.#cursor) query.set("after", this.#cursor);
    let pause = WATCH_MS;
    try {
      const told = await this.source().get(`${pathOf(user_id, "runs", run_id)}?${query}`);
      if (watch !== this.#watch) return;
      this.#cursor = told.cursor;
      this.#show(told.run);
      this.#add(told.events);
      if (told.more) pause = 0;
      else if (told.run.completed_at) pause = null;
      setText(this.note, pause === null ? "It has ended; this is all of it." : "");
    } catch (error) {
      if (watch !== this.#watch) return;
      const final = error instanceof Refused && error.status < 500;
      setText(this.note, final ? error.message : `${error.message} What is shown is from before; trying again.`);
      pause = final ? null : LOST_MS;
    }
    if (pause !== null) this.#timer = setTimeout(() => this.#look(watch), pause);
  }

  #show(run) {
    this.#run = run;
    setText(this.title, `Run ${run.run_id}`);
    setText(this.state, stateOf(run));
    this.state.dataset.tone = toneOf(run) ?? "";
    this.stop.hidden = run.state === "completed";
    const lasted = (Date.parse(run.completed_at ?? new Date().toISOString()) - Date.parse(run.created_at)) / 1000;
    const facts = {
      Agent: run.agent_name, User: run.user_id, Tenant: run.tenant || null, Thread: run.thread_id, Scope: run.scope, Worker: run.worker_id ?? "none yet",
      Attempt: String(run.attempt), Began: clock(run.created_at), [run.completed_at ? "Lasted" : "Lasts"]: age(lasted), Events: count(run.events),
    };
    const shown = Object.entries(facts).filter(([, value]) => value !== null);
    if (this.facts.children.length !== shown.length) this.facts.replaceChildren(...shown.map(() => element("div", {}, element("dt"), element("dd"))));
    shown.forEach(([name, value], index) => {
      const [term, text] = this.facts.children[index].children;
      setText(term, name);
      setText(text, value);
    });
    for (const step of this.steps.children) {
      const sent = !run.missing.includes(step.dataset.type);
      step.dataset.sent = String(sent);
      step.setAttribute("aria-label", `${step.textContent}: ${sent ? "sent" : run.completed_at ? "never sent" : "not yet"}`);
    }
  }

  #add(events) {
    if (!events.length) return;
    const atEnd = this.events.scrollTop + this.events.clientHeight > this.events.scrollHeight - 40;
    for (const event of events) {
      this.#first ??= Date.parse(event.at);
      const offset = (Date.parse(event.at) - this.#first) / 1000;
      this.events.append(element("li", { data: { type: event.type, tone: toneOfEvent(event) } },
        element("time", { class: "time", datetime: event.at, text: clock(event.at) }),
        element("span", { class: "time offset", text: `+${offset.toFixed(2)} s` }),
        element("b", { text: WORDS[event.type] ?? event.type }),
        element("span", { class: "detail", text: details(event) })));
    }
    while (this.events.children.length > MOST_SHOWN) this.events.firstElementChild.remove();
    if (atEnd) this.events.scrollTop = this.events.scrollHeight;
  }
}
