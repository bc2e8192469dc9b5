import type { Accepted, InputRequiredPayload, AgentThinkingPayload, Json, JsonObject, Options, RuncastClient, RuncastEvent, RunProblem, RunStatus, State, ToolExecutingPayload } from "./runcast.js";

export interface ToolCall extends Omit<ToolExecutingPayload, "status"> {
  status: "running" | "succeeded" | "failed";
  result?: Json;
  duration_ms?: number;
  error?: RunProblem;
}

/** One run and the message that began it. */
export interface Run {
  /** Empty until the server has accepted the message. */
  id: string;
  parentId: string | null;
  threadId: string;
  agent: string;
  message: { id: string; content: Json } | null;
  status: "sending" | "refused" | "queued" | "running" | "waiting" | RunStatus;
  /** What the agent wrote so far. */
  text: string;
  response: Json;
  thoughts: AgentThinkingPayload[];
  tools: ToolCall[];
  /** What the agent asks the user, while it waits. */
  question: InputRequiredPayload | null;
  error: RunProblem | null;
  /** Something of it happened while this tab was away. */
  resumed: boolean;
}

export interface Snapshot {
  connection: State;
  /** The device has no network. */
  offline: boolean;
  /** Oldest first. */
  runs: Run[];
}

export interface Store {
  /** Null while nobody is subscribed. */
  readonly client: RuncastClient | null;
  getSnapshot(): Snapshot;
  /** The first connects, the last one to go closes. */
  subscribe(listener: () => void): () => void;
  send(content: Json, options?: { threadId?: string; agent?: string; metadata?: JsonObject; id?: string }): Promise<Accepted>;
  stop(runId: string): Promise<unknown>;
  answer(runId: string, requestId: string, content: Json): Promise<void>;
}

/** The runs after one more event; pure. */
export function reduceRuns(runs: Run[], event: RuncastEvent, context?: { origin?: string; text?: string }): Run[];

export function createStore(options: Options): Store;

/**
 * Connects while the component is mounted; begins with all that is retained unless `after` says otherwise. Another
 * `url`, `mode`, `threadId` or `isolationLevel` is another client.
 */
export function useRuncast(options: Options): Snapshot & Pick<Store, "send" | "stop" | "answer"> & { store: Store };
