/**
 * Draws a conversation: every entry a question and the timeline of its run, changed in place as events arrive.
 * Long, for each kind of step has its own look, and all of them are drawn and redrawn by the same rules.
 */

import { element, icon, setText } from "./dom.js";
import { duration } from "./format.js";
import { LIFECYCLE } from "./runcast.js";
import { asText } from "./runs.js";

const STEP_NAMES = {
  agent_started: "started",
  agent_thinking: "thinking",
  tool_executing: "tool",
  tool_completed: "tool done",
  agent_completed: "completed",
};

const STATUS_WORDS = {
  open: "running",
  succeeded: "succeeded",
  failed: "failed",
  cancelled: "cancelled",
  abandoned: "abandoned",
};

const ENDINGS = {
  cancelled: "The run was stopped before it had an answer.",
  abandoned: "The run was abandoned: whoever worked on it has gone.",
  failed: "The run failed.",
};

const SHORT_VALUE = 60; // characters that still read well beside their name
const PROSE_LINES = 2; // a question of more is data that was pasted
const MOST_FIELDS = 12; // of a record that is not shown as JSON
const MOST_CHOICES = 8; // of an answer, as buttons

/**
 * @typedef {object} Actions  What a viewer can do to a run.
 * @property {(runId: string) => void} stop
 * @property {(runId: string, requestId: string, content: any) => Promise<boolean>} answer  Whether it was taken.
 */

const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isSmall = (value) => (JSON.stringify(value) ?? "").length <= SHORT_VALUE;
const isShortRecord = (value) =>
  isRecord(value) && Object.keys(value).length <= MOST_FIELDS && Object.values(value).every(isSmall);

/** As it reads best in a line: fractions to six figures, the rest of them is in the title. */
function inBrief(value) {
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(6)));
  return asText(value, 0) || JSON.stringify(value);
}

function fieldsView(record) {
  return element("dl", { class: "fields" }, ...Object.entries(record).map(([name, value]) =>
    element("div", {}, element("dt", { text: name }), element("dd", { text: inBrief(value), title: asText(value, 0) }))));
}

/** A value as a reader wants it: small named values side by side, records of them line by line, all else as JSON. */
function valueView(label, value) {
  if (isRecord(value) && Object.keys(value).length === 0) return null;
  let body;
  if (isShortRecord(value)) {
    body = fieldsView(value);
  } else if (isRecord(value) && Object.values(value).every(isShortRecord)) {
    body = element("div", { class: "groups" }, ...Object.entries(value).flatMap(([name, record]) =>
      [element("code", { class: "group-name", text: name }), fieldsView(record)]));
  } else {
    body = element("pre", { class: "value", text: asText(value), tabindex: "0", role: "group", "aria-label": label });
  }
  return element("div", { class: "labelled" }, element("span", { class: "label", text: label }), body);
}

function resumedTag() {
  return element("span", { class: "tag resumed-tag", text: "resumed", title: "Came after you were back" });
}

function markResumed(node, holder, resumed) {
  if (!resumed || node.dataset.resumed) return;
  node.dataset.resumed = "true";
  holder.append(" ", resumedTag());
}

// ---- one view for each kind of item; each gives {node, update(item)}

const ITEM_VIEWS = {
  thinking(item) {
    const line = element("p", { text: item.thoughts });
    const meter = typeof item.progress === "number" && element("progress", {
      max: "1", value: String(item.progress), "aria-label": "Progress",
    });
    const node = element("li", { class: "item thinking" }, line, meter);
    markResumed(node, line, item.resumed);
    return { node, update() {} };
  },

  tool(item) {
    const state = element("span", { class: "tag" });
    const time = element("span", { class: "time" });
    const head = element("div", { class: "tool-head" }, icon("tool"), element("code", { class: "tool-name", text: item.tool }), state, time);
    const outcome = element("div", { class: "outcome" });
    const node = element("li", { class: "item tool", data: { call: item.callId, tool: item.tool } },
      head,
      item.purpose && element("p", { class: "purpose", text: item.purpose }),
      item.parameters && valueView("with", item.parameters),
      outcome);
    let drawn = null;
    return {
      node,
      update(call) {
        if (drawn !== call.state) {
          drawn = call.state;
          node.dataset.state = call.state;
          setText(state, call.state);
          setText(time, duration(call.durationMs));
          outcome.replaceChildren(...outcomeOf(call));
        }
        markResumed(node, head, call.resumed);
      },
    };
  },

  run(item, actions) {
    const view = new RunView(item.run, actions);
    const node = element("li", { class: "item nested" }, view.node);
    return { node, update: () => view.update() };
  },

  again(item) {
    const text = `Attempt ${item.attempt}: the worker was lost and the run began again.`;
    const line = element("p", { text });
    const node = element("li", { class: "item again" }, line);
    markResumed(node, line, item.resumed);
    return { node, update() {} };
  },

  input(item, actions, run) {
    const { controls, value } = answerControls(item.schema);
    const form = element("form", { class: "answer-form", "aria-label": "Answer the agent", async onsubmit(event) {
      event.preventDefault();
      const content = value(event.submitter);
      for (const control of form.elements) control.disabled = true;
      if (await actions.answer(run.id, item.requestId, content)) return;
      for (const control of form.elements) control.disabled = false;
      form.elements[0].focus();
    } }, ...controls);
    const line = element("p", { class: "prompt", text: item.prompt });
    const note = element("p", { class: "soft small" });
    const tag = element("span", { class: "tag" });
    const node = element("li", { class: "item input" }, tag, line, form, note);
    markResumed(node, line, item.resumed);
    return {
      node,
      update({ open, answer, expiresAt }) {
        node.dataset.open = String(open);
        form.hidden = !open;
        setText(tag, open ? "asks you" : "asked you");
        const until = open && expiresAt && new Date(expiresAt).toLocaleTimeString([], { hour12: false });
        setText(note, answer !== undefined ? `Answered: ${asText(answer, 0)}` : until ? `Waits until ${until}.` : open ? "" : "Not answered.");
      },
    };
  },
};

/** What a JSON Schema of the answer asks for: a choice as buttons, a number, else text. */
function answerControls(schema) {
  const choices = schema?.type === "boolean" ? [["Yes", true], ["No", false]]
    : Array.isArray(schema?.enum) && schema.enum.length <= MOST_CHOICES ? schema.enum.map((choice) => [asText(choice, 0) || "null", choice]) : null;
  if (choices) {
    const buttons = choices.map(([text], index) => element("button", { class: "quiet", type: "submit", value: String(index), text }));
    return { controls: buttons, value: (pressed) => choices[Number((pressed ?? buttons[0]).value)][1] };
  }
  const numeric = schema?.type === "number" || schema?.type === "integer";
  const field = element("input", {
    name: "answer", autocomplete: "off", required: true, "aria-label": "Your answer",
    ...(numeric && { type: "number", step: schema.type === "integer" ? "1" : "any", min: schema.minimum, max: schema.maximum }),
  });
  const button = element("button", { class: "solid", type: "submit", text: "Answer" });
  return { controls: [field, button], value: () => (numeric ? field.valueAsNumber : field.value) };
}

function outcomeOf({ state, result, error }) {
  if (state === "failed") return [errorView(error, "The tool failed.")];
  if (state === "succeeded" && result !== null && result !== undefined) return [valueView("gave", result)].filter(Boolean);
  return [];
}

function errorView(error, otherwise) {
  return element("p", { class: "error" },
    error?.code && element("code", { text: error.code }),
    element("span", { text: error?.message ?? otherwise }));
}

/** One run: progress strip, timeline, answer. */
class RunView {
  #run;
  #actions;
  #items = new Map();
  #drawn = -1;

  constructor(run, actions) {
    this.#run = run;
    this.#actions = actions;
    this.agent = element("span", { class: "agent" });
    this.status = element("span", { class: "tag status" });
    this.time = element("span", { class: "time" });
    this.stop = element("button", { class: "quiet stop", type: "button", onclick: () => this.#askToStop() },
      icon("stop"), element("span", { text: "Stop" }));
    this.steps = new Map(LIFECYCLE.map((type) => [type, stepView(type)]));
    this.list = element("ol", { class: "items" });
    this.text = element("p", { class: "text", "aria-live": "off" });
    this.notes = element("div", { class: "notes" });
    this.answer = element("div", { class: "answer", hidden: true }, this.text, this.notes);
    this.node = element("article", { class: "run", data: { run: run.id } },
      element("header", { class: "run-head" }, this.agent, this.status, this.time, this.stop),
      element("ol", { class: "steps", "aria-label": "Progress of the run" }, ...[...this.steps.values()].map(({ node }) => node)),
      this.list,
      this.answer);
  }

  update() {
    const run = this.#run;
    for (const item of run.items) if (item.kind === "run") this.#items.get(item)?.update(item);
    if (this.#drawn === run.version) return;
    this.#drawn = run.version;
    const shown = run.untracked ? "unknown" : run.status;
    this.node.dataset.status = shown;
    this.node.setAttribute("aria-label", `Run of ${run.agent || "the agent"}`);
    setText(this.agent, run.agent || "agent");
    setText(this.status, run.stopping && !run.over ? "stopping" : run.untracked ? "not followed" : STATUS_WORDS[run.status] ?? run.status);
    setText(this.time, duration(run.durationMs));
    this.stop.hidden = run.over || run.untracked || run.parentId !== null;
    this.stop.disabled = run.stopping;
    for (const [type, { update }] of this.steps) update(run.steps.get(type), run);
    for (const item of run.items) this.#draw(item);
    this.#drawAnswer();
  }

  #draw(item) {
    let view = this.#items.get(item);
    if (!view) {
      view = ITEM_VIEWS[item.kind](item, this.#actions, this.#run);
      this.#items.set(item, view);
      this.list.append(view.node);
    }
    if (item.void) view.node.dataset.void = "true";
    view.update(item);
  }

  #drawAnswer() {
    const run = this.#run;
    const final = run.status === "succeeded" ? asText(run.response) || run.text : run.text;
    setText(this.text, final);
    this.text.hidden = final === "";
    this.answer.dataset.state = run.over ? run.status : "writing";
    this.answer.hidden = final === "" && !run.over && !run.untracked;
    if (!run.over && !run.untracked) {
      this.notes.replaceChildren();
      return;
    }
    this.notes.replaceChildren(...[
      run.untracked && element("p", { class: "soft", text: "The connection was lost during this run and this mode cannot resume, so its end is not known here." }),
      run.error && errorView(run.error, ENDINGS[run.status]),
      !run.error && run.status in ENDINGS && element("p", { class: "ending", text: ENDINGS[run.status] }),
      run.missing.length > 0 && element("p", { class: "soft missing", text: `Not reported by this run: ${run.missing.map((type) => STEP_NAMES[type] ?? type).join(", ")}.` }),
      run.steps.get("agent_completed").resumed && resumedTag(),
    ].filter(Boolean));
  }

  #askToStop() {
    this.#run.stopping = true;
    this.#run.version += 1;
    this.update();
    this.#actions.stop(this.#run.id);
  }
}

function stepView(type) {
  const count = element("span", { class: "step-count" });
  const state = element("span", { class: "unseen", text: "not yet" });
  const node = element("li", { class: "step", data: { step: type } },
    element("span", { class: "step-dot", "aria-hidden": "true" }),
    element("span", { class: "step-name" }, element("span", { text: STEP_NAMES[type] }), count),
    state);
  return {
    node,
    update({ count: times, resumed }, run) {
      const absent = times === 0 && run.over;
      setText(count, times > 1 ? ` ×${times}` : "");
      setText(state, times > 0 ? "done" : absent ? "not reported" : "not yet");
      node.dataset.reached = String(times > 0);
      if (absent) node.dataset.absent = "true";
      if (resumed) node.dataset.resumedStep = "true";
    },
  };
}

/** One question and its run. */
class EntryView {
  #entry;
  #actions;
  #run = null;

  constructor(entry, name, actions) {
    this.#entry = entry;
    this.#actions = actions;
    this.text = element("p", { class: "question-text" });
    this.by = element("p", { class: "question-by", text: name });
    this.note = element("p", { class: "question-note" });
    this.question = element("div", { class: "question" }, this.by, this.text, this.note);
    this.node = element("section", { class: "entry", "aria-label": "Question and run" }, this.question);
  }

  update(runs) {
    const entry = this.#entry;
    this.question.hidden = entry.content === null;
    const text = asText(entry.content?.text ?? entry.content).trimEnd();
    setText(this.text, text);
    this.question.dataset.form = text.split("\n").length > PROSE_LINES ? "data" : "prose";
    this.question.dataset.state = entry.state;
    const waits = entry.state === "sent" && !runs.has(entry.runId);
    setText(this.note, entry.state === "sending" ? "Sending…" : entry.problem ?? (waits ? "Waiting for the agent…" : ""));
    markResumed(this.node, this.by, entry.resumed);
    if (!this.#run && runs.has(entry.runId)) {
      this.#run = new RunView(runs.get(entry.runId), this.#actions);
      this.node.append(this.#run.node);
    }
    this.#run?.update();
  }
}

/** The whole conversation with the notices between its entries. */
export class Timeline {
  #views = new Map();

  /** @param {HTMLElement} place @param {string} name the user's @param {Actions} actions */
  constructor(place, name, actions) {
    this.place = place;
    this.name = name;
    this.actions = actions;
    place.replaceChildren();
  }

  /** @param {import("./runs.js").Conversation} conversation */
  update({ entries, runs }) {
    const present = new Set(entries);
    for (const [entry, view] of this.#views) {
      if (present.has(entry)) continue;
      view.node.remove();
      this.#views.delete(entry);
    }
    for (const entry of entries) {
      if (!this.#views.has(entry)) {
        const view = new EntryView(entry, this.name, this.actions);
        this.#views.set(entry, view);
        this.place.append(view.node);
      }
      this.#views.get(entry).update(runs);
    }
  }

  /** Say something about the connection at this place of the conversation. @param {"plain" | "good" | "bad"} tone */
  notice(text, tone = "plain") {
    this.place.append(element("p", { class: "notice", data: { tone }, text }));
  }
}
