// A chat in the terminal with the official AG-UI client: npm install @ag-ui/client
// node ag-ui.mjs "a question", with BASE (a gateway), AGENT and TOKEN in the environment.
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { HttpAgent, buildResumeArray } from "@ag-ui/client";

const { BASE, TOKEN, AGENT = "analyst" } = process.env;
const agent = new HttpAgent({
  url: `${BASE}/agui/${encodeURIComponent(AGENT)}`,
  headers: { Authorization: `Bearer ${TOKEN}` },
});
const shown = {
  onReasoningMessageContentEvent: ({ event }) => console.log(`(${event.delta})`),
  onToolCallEndEvent: ({ toolCallName, toolCallArgs }) =>
    console.log(`${toolCallName} ${JSON.stringify(toolCallArgs)}`),
  onTextMessageContentEvent: ({ event }) => process.stdout.write(event.delta),
  onTextMessageEndEvent: () => console.log(),
};

/** A run to its end, or to a question; asked again where only the response has ended. */
async function run(parameters) {
  for (;;) {
    let error, finished;
    await agent.runAgent(parameters, {
      ...shown,
      onRunFinishedEvent: () => void (finished = true),
      onRunErrorEvent: ({ event }) => void (error = event),
    });
    if (finished) return;
    // No end at all is a connection that broke: the client takes that for a success.
    if (error && error.code !== "ask_again") throw new Error(`${error.code}: ${error.message}`);
  }
}

agent.addMessage({ id: randomUUID(), role: "user", content: process.argv[2] });
await run({ runId: randomUUID() });
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
while (agent.pendingInterrupts.length) {
  const answers = {};
  for (const { id, message } of agent.pendingInterrupts) {
    console.log(message);
    const { value, done } = await lines.next();
    answers[id] = done ? { status: "cancelled" } : { status: "resolved", payload: value };
  }
  await run({ runId: randomUUID(), resume: buildResumeArray(agent.pendingInterrupts, answers) });
}
process.exit(0);
