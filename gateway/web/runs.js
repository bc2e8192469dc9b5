/**
 * A conversation as a value: questions, the runs that answer them, and what each run has told of itself.
 * Events go in, entries and runs come out; nothing in here knows of a page or a socket.
 */

import { LIFECYCLE } from "./runcast.js";

/**
 * @typedef {object} Entry  One question with its run, in the order in which they began.
 * @property {string | null} messageId
 * @property {string | null} runId  The root run; null until the server has accepted the question.
 * @property {any} content  null when only the run is known.
 * @property {"sending" | "sent" | "refused"} state
 * @property {string | null} problem  Why it was refused.
 * @property {boolean} resumed
 */

/** What one run has told so far. */
export class Run {
  constructor({ run_id, parent_run_id = null, agent_name = "", thread_id = "" }) {
    this.id = run_id;
    this.parentId = parent_run_id;
    this.agent = agent_name;
    this.threadId = thread_id;
    /** "open" or the status of its end. */
    this.status = "open";
    this.stopping = false;
    /** Set when the events of this run can no longer arrive. */
    this.untracked = false;
    /** How many of each of the five, and whether one of them came by resuming. */
    this.steps = new Map(LIFECYCLE.map((type) => [type, { count: 0, resumed: false }]));
    /** thoughts, tool calls, sub-agents, questions to the user and new attempts, in their order. */
    this.items = [];
    this.startMessage = "";
    this.text = "";
    this.response = null;
    this.error = null;
    this.missing = [];
    this.durationMs = null;
    this.startedAt = null;
    this.resumed = false;
    /** Grows with every change. */
    this.version = 0;
  }

  get over() {
    return this.status !== "open";
  }
}

const timeOf = (event) => (event.timestamp ? Date.parse(event.timestamp) : null);

/** What each event does to its run. A type that is not here changes nothing. */
const APPLY = {
  agent_started(run, { payload, attempt, timestamp }, resumed) {
    if (run.steps.get("agent_started").count > 1 || attempt > 1) {
      for (const item of run.items) {
        item.void = true;
        if (item.state === "running") item.state = "unfinished";
      }
      run.items.push({ kind: "again", attempt: attempt ?? 2, resumed });
      run.text = "";
    }
    run.startMessage = payload.message ?? "";
    run.startedAt ??= timestamp ? Date.parse(timestamp) : null;
  },

  agent_thinking(run, { payload }, resumed) {
    const { thoughts, step, progress } = payload;
    run.items.push({ kind: "thinking", thoughts: asText(thoughts), step, progress, resumed });
  },

  tool_executing(run, { payload, ...event }, resumed) {
    const { tool, call_id: callId, parameters, purpose } = payload;
    if (callOf(run, callId)) return;
    run.items.push({ kind: "tool", tool, callId, parameters, purpose, state: "running", startedAt: timeOf(event), resumed });
  },

  tool_completed(run, { payload }, resumed) {
    const { tool, call_id: callId, success, result, error, duration_ms: durationMs } = payload;
    let call = callOf(run, callId);
    if (!call) {
      // Its beginning is no longer kept.
      call = { kind: "tool", tool, callId };
      run.items.push(call);
    }
    Object.assign(call, { state: success ? "succeeded" : "failed", result, error, durationMs, resumed: call.resumed || resumed });
  },

  agent_completed(run, { payload }) {
    run.status = payload.status ?? "succeeded";
    run.response = payload.response ?? null;
    run.error = payload.error ?? null;
    run.missing = payload.missing ?? [];
    run.durationMs = payload.duration_ms ?? null;
    for (const item of run.items) {
      if (item.kind === "input") item.open = false; // nobody waits for the answer any more
      if (item.state === "running") item.state = "unfinished"; // its worker is gone and could not close it
    }
  },

  input_required(run, { payload }, resumed) {
    const { request_id: requestId, prompt, schema, expires_at: expiresAt } = payload;
    const asked = run.items.find((item) => item.requestId === requestId && !item.void);
    // Asked again after its worker was lost: it can be answered for longer.
    if (asked) Object.assign(asked, { open: true, expiresAt });
    else run.items.push({ kind: "input", requestId, prompt, schema, expiresAt, open: true, resumed });
  },

  user_input(run, { payload }) {
    for (const item of run.items) {
      if (item.requestId === payload.request_id) Object.assign(item, { open: false, answer: payload.content });
    }
  },

  stop_requested(run) {
    run.stopping = true;
  },
};

function callOf(run, callId) {
  return run.items.find((item) => item.kind === "tool" && item.callId === callId && !item.void);
}

/** Text as it is, nothing as nothing, anything else as JSON. @param {any} value @param {number} indent */
export function asText(value, indent = 2) {
  if (value === null || value === undefined) return "";
  return typeof value === "string" ? value : JSON.stringify(value, null, indent);
}

export class Conversation {
  /** @param {{answersInOrder?: boolean}} [options]  Legacy servers may not say which run answers which question. */
  constructor({ answersInOrder = false } = {}) {
    this.answersInOrder = answersInOrder;
    /** @type {Entry[]} */
    this.entries = [];
    /** @type {Map<string, Run>} */
    this.runs = new Map();
  }

  /** The user's question, before the server knows of it. @returns {Entry} */
  ask(messageId, content) {
    const entry = { messageId, runId: null, content, state: "sending", problem: null, resumed: false };
    this.entries.push(entry);
    return entry;
  }

  /** The server has accepted a question; its echo or its run may have come first. */
  accept(messageId, runId) {
    const entry = this.entries.find((one) => one.messageId === messageId);
    const early = this.entries.find((one) => one.runId === runId && one !== entry);
    if (!entry) return;
    if (early) this.entries.splice(this.entries.indexOf(early), 1);
    entry.runId = runId;
    entry.state = "sent";
  }

  /** The server has refused it. */
  refuse(messageId, problem) {
    const entry = this.entries.find((one) => one.messageId === messageId);
    if (entry) Object.assign(entry, { state: "refused", problem });
  }

  /**
   * Take in one event.
   * @param {import("./runcast.js").RuncastEvent} event
   * @param {boolean} resumed  Whether it was replayed after coming back.
   * @returns {Run | null} the run that changed
   */
  apply(event, resumed) {
    if (event.type === "user_message") {
      this.#echo(event, resumed);
      return null;
    }
    if (!APPLY[event.type]) return null;
    const run = this.#runOf(event, resumed);
    if (run.over) return null;
    const step = run.steps.get(event.type);
    if (step) {
      step.count += 1;
      step.resumed ||= resumed;
    }
    run.resumed ||= resumed;
    APPLY[event.type](run, event, resumed);
    run.version += 1;
    return run;
  }

  /** The whole text so far of a run. @returns {Run | null} */
  write(event, text) {
    const run = this.#runOf(event, false);
    if (run.over) return null;
    run.text = text;
    run.version += 1;
    return run;
  }

  /** Legacy connections cannot resume: what was open when they were lost stays unknown. @returns {Run[]} */
  loseTrack() {
    const open = [...this.runs.values()].filter((run) => !run.over);
    for (const run of open) {
      run.untracked = true;
      run.version += 1;
    }
    return open;
  }

  #echo({ run_id: runId, payload }, resumed) {
    const { message_id: messageId = null, content } = payload;
    const known =
      this.entries.find((entry) => entry.runId === runId) ??
      this.entries.find((entry) => messageId !== null && entry.messageId === messageId);
    if (!known) {
      this.entries.push({ messageId, runId, content, state: "sent", problem: null, resumed });
      return;
    }
    Object.assign(known, { runId, content: known.content ?? content, state: "sent" });
  }

  #runOf(event, resumed) {
    const known = this.runs.get(event.run_id);
    if (known) {
      known.agent ||= event.agent_name ?? "";
      known.untracked = false;
      return known;
    }
    const run = new Run(event);
    this.runs.set(run.id, run);
    const parent = this.runs.get(run.parentId);
    if (parent) parent.items.push({ kind: "run", run, resumed });
    else this.#place(run, event, resumed);
    return run;
  }

  #place(run, event, resumed) {
    if (this.entries.some((entry) => entry.runId === run.id)) return;
    const waiting = this.answersInOrder && this.entries.find((entry) => entry.state === "sending");
    if (waiting) {
      Object.assign(waiting, { runId: run.id, state: "sent" });
      return;
    }
    const content = event.payload?.input ?? null;
    this.entries.push({ messageId: null, runId: run.id, content, state: "sent", problem: null, resumed });
  }
}
