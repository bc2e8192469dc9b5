// Chats of the official AI SDK, on command: one JSON line in for each thing to do, one out for each
// change that a page would show. Chats that name the same transport share it.
import { createInterface } from "node:readline";
import {
  AbstractChat, DefaultChatTransport, WebSocketChatTransport,
  lastAssistantMessageIsCompleteWithToolCalls,
} from "ai";
import { WebSocket } from "ws";

const tell = (said) => process.stdout.write(`${JSON.stringify(said)}\n`);

class State {
  #name; #status = "ready"; #error; #messages = [];
  constructor(name) { this.#name = name; }
  get status() { return this.#status; }
  set status(status) { this.#status = status; this.#told(); }
  get error() { return this.#error; }
  set error(error) { this.#error = error; this.#told(); }
  get messages() { return this.#messages; }
  set messages(messages) { this.#messages = [...messages]; this.#told(); }
  pushMessage = (message) => { this.messages = [...this.#messages, message]; };
  popMessage = () => { this.messages = this.#messages.slice(0, -1); };
  replaceMessage = (at, message) => {
    this.messages = this.#messages.with(at, structuredClone(message));
  };
  snapshot = (thing) => structuredClone(thing);
  #told() {
    tell({ chat: this.#name, status: this.#status, error: this.#error?.message,
           messages: this.#messages });
  }
}

class Chat extends AbstractChat {
  constructor({ name, id, transport, messages }) {
    const state = new State(name);
    state.messages = messages ?? [];
    super({
      id, transport, state,
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall: ({ toolCall }) => tell({ chat: name, asked: toolCall }),
      onFinish: ({ isAbort, isDisconnect, isError, finishReason }) =>
        tell({ chat: name, finished: { isAbort, isDisconnect, isError, finishReason } }),
    });
  }
}

const transports = new Map();
const chats = new Map();

const makers = {
  sse: ({ url, token, runId }) => new DefaultChatTransport({
    api: url, headers: { Authorization: `Bearer ${token}` },
    prepareReconnectToStreamRequest: ({ api, id }) => ({
      api: `${api}/${encodeURIComponent(id)}/stream${runId ? `?run_id=${runId}` : ""}`,
    }),
  }),
  ws: ({ url, token, runId, params, headers }) => new WebSocketChatTransport({
    url: `${url}/ws`, webSocket: WebSocket, protocols: ["runcast.v3", `jwt.${token}`],
    params, headers, body: runId ? { run_id: runId } : undefined,
  }),
};

const actions = {
  open: ({ chat, id, transport, kind, messages, ...options }) => {
    if (!transports.has(transport)) transports.set(transport, makers[kind](options));
    chats.set(chat, new Chat({ name: chat, id, transport: transports.get(transport), messages }));
  },
  send: ({ chat, message, options }) => chats.get(chat).sendMessage(message, options),
  regenerate: ({ chat }) => chats.get(chat).regenerate(),
  resume: ({ chat }) => chats.get(chat).resumeStream(),
  stop: ({ chat }) => chats.get(chat).stop(),
  answer: ({ chat, toolCallId, output }) =>
    chats.get(chat).addToolOutput({ tool: "input_required", toolCallId, output }),
  close: ({ transport }) => transports.get(transport).close(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { action, ...given } = JSON.parse(line);
  Promise.resolve(actions[action](given)).then(
    () => tell({ chat: given.chat, done: action }),
    (error) => tell({ chat: given.chat, done: action, failed: error.message }),
  );
}
process.exit(0);
