/** `useRuncast` for React 18 and later: a client and what its events add up to. Types are in runcast-react.d.ts. */

import { useMemo, useRef, useSyncExternalStore } from "react";
import { RuncastClient, newId } from "./runcast.js";

const NEW_RUN = { message: null, thoughts: [], tools: [], question: null, text: "", response: null, status: "sending", error: null, resumed: false };

/** What each occurrence makes of its run. What is not here changes nothing. */
const CHANGES = {
  user_message: (run, { payload, run_id: id }) => ({ message: { id: payload.message_id, content: payload.content }, status: id && run.status === "sending" ? "queued" : run.status }),
  refused: (_, { payload: error }) => ({ status: "refused", error }),
  agent_started: () => ({ status: "running", thoughts: [], tools: [], question: null, text: "" }),
  agent_thinking: (run, { payload }) => ({ status: "running", question: null, thoughts: [...run.thoughts, payload] }),
  tool_executing: (run, { payload }) => ({ status: "running", question: null, tools: [...run.tools, { ...payload, status: "running" }] }),
  tool_completed: (run, { payload }) => ({
    tools: run.tools.map((call) => call.call_id === payload.call_id ? { ...call, ...payload, status: payload.success ? "succeeded" : "failed" } : call),
  }),
  input_required: (_, { payload }) => ({ status: "waiting", question: payload }),
  user_input: (run, { payload }) => (run.question?.request_id === payload.request_id ? { question: null } : {}),
  agent_delta: (_, __, { text }) => ({ text }),
  agent_completed: (run, { payload: { status, response, error = null } }) => ({ status, response, error, question: null, text: typeof response === "string" ? response : run.text }),
};

/**
 * The runs after one more occurrence, oldest first; the same list when nothing changed. A run is known by its id and,
 * before the server has given it one, by its message's.
 */
export function reduceRuns(runs, event, context = {}) {
  const change = CHANGES[event.type];
  if (!change) return runs;
  const messageId = event.payload?.message_id;
  const at = runs.findIndex((run) => (event.run_id && run.id === event.run_id) || (messageId && run.message?.id === messageId));
  const run = runs[at] ?? { ...NEW_RUN, id: event.run_id, parentId: event.parent_run_id ?? null };
  const next = { ...run, ...change(run, event, context) };
  next.id = event.run_id || run.id;
  next.threadId = event.thread_id || run.threadId || "";
  next.agent = event.agent_name || run.agent || "";
  next.resumed = run.resumed || context.origin === "resumed";
  return at < 0 ? [...runs, next] : runs.with?.(at, next) ?? runs.map((one, index) => (index === at ? next : one));
}

/** A client that lives while somebody looks, and its state: what `useSyncExternalStore` wants. */
export function createStore(options) {
  const listeners = new Set();
  let client = null;
  let snapshot = { connection: "idle", offline: false, runs: [] };
  const set = (change) => {
    snapshot = { ...snapshot, ...change };
    for (const listener of listeners) listener();
  };
  const take = (event, context) => {
    const runs = reduceRuns(snapshot.runs, event, context);
    if (runs !== snapshot.runs) set({ runs });
  };
  const open = () => {
    client = new RuncastClient(options);
    snapshot = { ...snapshot, runs: [] };
    for (const type of Object.keys(CHANGES)) client.on(type, take);
    client.on("state", ({ state, offline = false }) => set({ connection: state, offline }));
    client.connect();
  };
  return {
    getSnapshot: () => snapshot,
    subscribe(listener) {
      listeners.add(listener);
      if (!client) open();
      return () => {
        listeners.delete(listener);
        if (listeners.size > 0) return;
        client.close();
        client = null;
      };
    },
    get client() { return client; },
    async send(content, { id = newId(), ...rest } = {}) {
      try {
        return await client.send(content, { id, ...rest });
      } catch (error) {
        take({ type: "refused", run_id: "", payload: { message_id: id, code: error.code, message: error.message } });
        throw error;
      }
    },
    stop: (runId) => client.stop(runId),
    async answer(runId, requestId, content) {
      await client.answer(runId, requestId, content);
      take({ type: "user_input", run_id: runId, payload: { request_id: requestId } });
    },
  };
}

/** Connects while the component is mounted. Another address, mode or thread is another client. */
export function useRuncast(options) {
  const latest = useRef(options);
  latest.current = options;
  const { url, mode, threadId, isolationLevel } = options;
  const store = useMemo(() => createStore({
    after: "0-0",
    ...latest.current,
    token: latest.current.token && ((why) => latest.current.token(why)),
  }), [url, mode, threadId, isolationLevel]);
  const state = useSyncExternalStore(store.subscribe, store.getSnapshot, store.getSnapshot);
  return { ...state, send: store.send, stop: store.stop, answer: store.answer, store };
}
