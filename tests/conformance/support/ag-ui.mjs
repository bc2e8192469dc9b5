// Official AG-UI clients, told what to do by lines of JSON on standard input, and telling what they
// hear: `HttpAgent`, whose pipeline enforces the schema and verifies the order of the events, and
// TanStack AI's `ChatClient` over server-sent events.
import { createInterface } from "node:readline";
import { HttpAgent } from "@ag-ui/client";
import { ChatClient, fetchServerSentEvents } from "@tanstack/ai-client";

const clients = new Map();
const say = (client, what) => console.log(JSON.stringify({ client, ...what }));
console.warn = (...what) => say("", { warned: what.map(String).join(" ") });
console.error = console.warn;

class Official {
  constructor(name, { url, token, threadId, messages }) {
    this.name = name;
    const headers = { Authorization: `Bearer ${token}` };
    this.agent = new HttpAgent({ url, headers, threadId, initialMessages: messages });
  }
  async run({ text, runId, resume, props, headers }) {
    const { name, agent } = this;
    if (text) agent.addMessage({ id: `user-${runId}`, role: "user", content: text });
    Object.assign(agent.headers, headers);
    let error;
    try {
      const parameters = { runId, resume, forwardedProps: props };
      await agent.runAgent(parameters, { onEvent: ({ event }) => void say(name, { event }) });
    } catch (thrown) {
      error = String(thrown);
    }
    const { messages, pendingInterrupts } = agent;
    say(name, { done: { runId, error, messages, pendingInterrupts } });
  }
  async abort() {
    this.agent.abortRun();
  }
}

class TanStack {
  constructor(name, { url, token, threadId, hydrate }) {
    const headers = { Authorization: `Bearer ${token}` };
    this.client = new ChatClient({
      connection: fetchServerSentEvents(url, { headers, reconnect: { delayMs: 20 } }),
      threadId,
      persistence: hydrate,
      onChunk: (event) => say(name, { event }),
    });
    let before;
    setInterval(() => {
      const shown = JSON.stringify(this.shown());
      if (shown !== before) say(name, { shown: JSON.parse(shown) });
      before = shown;
    }, 20).unref();
    this.client.attach();
  }
  shown() {
    return {
      messages: this.client.getMessages(),
      status: this.client.getStatus(),
      error: this.client.getError()?.message,
      interrupts: this.client.getPendingInterrupts().map(({ id }) => id),
    };
  }
  async run({ text }) {
    await this.client.sendMessage(text);
  }
  async answer({ resume }) {
    await this.client.resumeInterruptsUnsafe(resume);
  }
  async stop() {
    this.client.stop();
  }
}

const kinds = { official: Official, tanstack: TanStack };
for await (const line of createInterface({ input: process.stdin })) {
  const { client, action, ...given } = JSON.parse(line);
  if (action === "open") clients.set(client, new kinds[given.kind](client, given));
  else void clients.get(client)[action](given);
}
process.exit(0);
