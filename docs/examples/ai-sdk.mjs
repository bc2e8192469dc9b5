// A chat with npm `ai`, without a page: over SSE, then over a WebSocket with a question and a stop.
import {
  AbstractChat, DefaultChatTransport, WebSocketChatTransport,
  lastAssistantMessageIsCompleteWithToolCalls,
} from "ai";
import { WebSocket } from "ws";

const { BASE: base, TOKEN: token } = process.env;

// What a page's framework brings: useChat of @ai-sdk/react has this and the class below in it.
class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = (message) => { this.messages = [...this.messages, message]; };
  popMessage = () => { this.messages = this.messages.slice(0, -1); };
  replaceMessage = (at, message) => { this.messages = this.messages.with(at, message); };
  snapshot = structuredClone;
}

class Chat extends AbstractChat {
  constructor(options) {
    super({ ...options, state: new State() });
  }
}

const text = ({ parts }) =>
  parts.map((part) => (part.type === "text" ? part.text : "")).join("");

// 1. Server-sent events. Only the last message is sent: the agent's side keeps the thread.
const sse = new DefaultChatTransport({
  api: `${base}/ai-sdk/analyst`,
  headers: async () => ({ Authorization: `Bearer ${token}` }),
  prepareSendMessagesRequest: ({ body, id, messages, trigger, messageId }) => ({
    body: { ...body, id, trigger, messageId, messages: messages.slice(-1) },
  }),
  // The run is named, so that it is found also when it has ended meanwhile.
  prepareReconnectToStreamRequest: ({ api, id, body }) => ({
    api: `${api}/${encodeURIComponent(id)}/stream?${new URLSearchParams(body)}`,
  }),
});
const first = new Chat({ transport: sse });
await first.sendMessage({ text: "4 8 15 16 23 42" });
const { run_id, status } = first.lastMessage.metadata.runcast;
console.log(first.status, status, text(first.lastMessage).split(".")[0]);

// 2. The same message, read again.
const again = new Chat({ id: first.id, transport: sse });
await again.resumeStream({ body: { run_id } });
console.log(text(again.lastMessage) === text(first.lastMessage) ? "the same" : "another");

// 3. A WebSocket, with a ticket for each connection, and a run that is stopped.
const ws = new WebSocketChatTransport({
  url: `${base}/ai-sdk/analyst/ws`,
  webSocket: WebSocket, // a browser has its own
  params: async () => {
    const headers = { Authorization: `Bearer ${token}` };
    const answer = await fetch(`${base}/ws/ticket`, { method: "POST", headers });
    return { ticket: (await answer.json()).ticket };
  },
});
const second = new Chat({
  transport: ws,
  sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
});
const sent = second.sendMessage({ text: "slowly: a few words that take their time" });
while (second.lastMessage?.role !== "assistant" || !text(second.lastMessage)) {
  await new Promise((done) => setTimeout(done, 20));
}
await second.stop();
await sent;
console.log(second.status);
ws.close();
