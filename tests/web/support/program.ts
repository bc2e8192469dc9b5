import { RuncastClient, RuncastError, compareCursors, type RuncastEvent, type ToolExecutingPayload } from "runcast";
import { reduceRuns, useRuncast, type Run } from "runcast/react";

const chat = new RuncastClient({
  url: "wss://chat.example/ws",
  token: async ({ fresh }) => (fresh ? "new" : "old"),
  mode: "factory",
  isolationLevel: "strict",
});

chat.on("tool_executing", ({ payload, run_id }, { origin }) => {
  const call: ToolExecutingPayload = payload;
  console.log(run_id, call.tool.length, call.status === "running", origin === "resumed");
});
chat.on("agent_delta", (_, { text }) => console.log(text.length));
chat.on("agent_completed", ({ payload }) => {
  if (payload.status === "failed") console.log(payload.error?.code, payload.missing.includes("agent_thinking"));
});
chat.on("input_required", ({ run_id, payload }) => void chat.answer(run_id, payload.request_id, { yes: true }));
chat.on("event", (event) => {
  switch (event.type) {
    case "tool_completed":
      console.log(event.payload.success, event.payload.duration_ms + 1);
      break;
    case "agent_thinking":
      console.log(event.payload.progress?.toFixed());
  }
});
chat.on("state", ({ state, retryInMs }) => console.log(state === "waiting" && retryInMs));
chat.on("resync", ({ payload }) => console.log(payload.reason === "forked"));
chat.on("an_event_of_a_later_server", (frame) => console.log(frame.type));

async function talk(): Promise<string> {
  try {
    const { run_id, duplicate } = await chat.send({ rows: [1, 2, 3] }, { agent: "analyst", id: "m1" });
    if (duplicate) await chat.stop(run_id);
    return chat.text(run_id);
  } catch (error) {
    if (error instanceof RuncastError && error.retryable) return error.code;
    throw error;
  }
}

const runs: Run[] = reduceRuns([], {} as RuncastEvent);
export function Page() {
  const { connection, offline, runs: all, send } = useRuncast({ ticket: async () => "t", threadId: "t1" });
  return [connection, offline, all.map((run) => run.tools[0]?.result), () => send("hello")] as const;
}
console.log(runs, compareCursors(chat.cursor, "1-0") < 0, talk);
