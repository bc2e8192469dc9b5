/** Runcast in the browser. The events' types come from the schema that agents are checked against: events.d.ts. */

import type { EventType, Json, JsonObject, LifecycleType, RuncastEvent } from "./events.js";

export type * from "./events.js";

export type Mode = "main" | "factory" | "isolated" | "legacy";

/**
 * `waiting`: lost, and it comes back by itself. `stopped`: the server said not to come back, or there is no token.
 * `catching_up`: connected, and what was missed is being replayed.
 */
export type State = "idle" | "connecting" | "catching_up" | "live" | "waiting" | "stopped" | "closed";

/**
 * `live`: just now. `history`: replayed, and older than what this tab had last. `resumed`: replayed, and it happened
 * while this tab was away. `local`: a message of this client that the server has not confirmed yet.
 */
export type Origin = "live" | "history" | "resumed" | "local";

export interface Options {
  /** Gives a token. `fresh`: the one before was refused or is about to expire, so a remembered one will not do. */
  token?: (why: { fresh: boolean }) => Promise<string>;
  /**
   * Gives a one-use ticket (`POST /ws/ticket`), which goes into the address instead of the token. Without `token`
   * beside it, an expiring connection is replaced instead of renewed, and nothing can be sent over `sse`.
   */
  ticket?: () => Promise<string>;
  /** Default `/ws` of this page's host. */
  url?: string | URL;
  /** Default `main`. */
  mode?: Mode;
  /** main: only this thread; factory: the thread, one is made if absent. Messages go there too. */
  threadId?: string | undefined;
  /** factory only; default `standard`. */
  isolationLevel?: "standard" | "strict";
  /** factory strict: attach to this run at once. */
  runId?: string;
  /** Cursor to begin at; `0-0` = all that is retained; absent = where this tab was last, else from now on. */
  after?: string;
  /** `lifecycle` leaves out streamed text. */
  events?: "all" | "lifecycle";
  /** `auto`, the default: WebSocket, and Server-Sent Events where those are blocked. */
  transport?: "auto" | "websocket" | "sse";
  /** Tabs of one user, thread and mode share one socket where the browser can do that. Default true. */
  share?: boolean;
  /** Where this tab's cursors are kept; default `sessionStorage`, null = nowhere. */
  storage?: Pick<Storage, "getItem" | "setItem" | "removeItem"> | null;
  /** Outside of browsers: the class to connect with, and `fetch`. */
  WebSocket?: new (address: string | URL, protocols?: string | string[]) => unknown;
  fetch?: typeof fetch;
}

export interface Context {
  origin: Origin;
}

/** Of `agent_delta`: the run's whole text so far. */
export interface TextContext extends Context {
  text: string;
}

export interface StateChange {
  state: State;
  previous: State;
  /** Close code, when a socket was closed. */
  code?: number;
  reason?: string;
  retryInMs?: number;
  /** The device has no network. */
  offline?: boolean;
}

export interface Resync {
  reason: "expired" | "forked" | "unknown_cursor" | "overrun";
  from: string;
  channel_cursor: string;
  run_id?: string;
}

export interface Accepted {
  run_id: string;
  thread_id: string;
  agent: string;
  /** The same message id had begun this run before. */
  duplicate: boolean;
}

/** A frame that is not an event of a run. */
export interface Frame<Payload = JsonObject> {
  type: string;
  ref?: string | null;
  payload: Payload;
}

export interface Handlers {
  /** Every lifecycle event. */
  event: (event: RuncastEvent<LifecycleType>, context: Context) => void;
  agent_delta: (event: RuncastEvent<"agent_delta">, context: TextContext) => void;
  state: (change: StateChange) => void;
  /** Something is missing and cannot be had: what and why. */
  resync: (frame: Frame<Resync>) => void;
  draining: (frame: Frame<{ reconnect_after_ms: number }>) => void;
  token_expiring: (frame: Frame<{ expires_at: string }>) => void;
  /** `ref` is null unless it answers a request, whose promise is rejected then. */
  error: (frame: Frame<{ code: string; message: string; retryable: boolean }>) => void;
  /** Every frame as it is on the wire. */
  "*": (passing: { direction: "in" | "out"; frame: JsonObject }) => void;
}

export class RuncastClient {
  /** @throws {TypeError} without `token` and `ticket` */
  constructor(options: Options);
  readonly state: State;
  /** How events come now. */
  readonly transport: "websocket" | "sse";
  /** In factory mode without a given one, the one that the server made. */
  readonly threadId: string | undefined;
  /** The `id` of the last event of the present channel. */
  readonly cursor: string | null;
  /** A run's text so far, as streamed; the response once it is over. Kept for the hundred latest. */
  text(runId: string): string;
  /** Have `handler` called for an event, a frame or one of `event`, `state`, `*`. Call what it gives to stop. */
  on<Name extends keyof Handlers>(type: Name, handler: Handlers[Name]): () => void;
  on<Type extends EventType>(type: Type, handler: (event: RuncastEvent<Type>, context: Context) => void): () => void;
  on(type: string, handler: (frame: Frame) => void): () => void;
  /** Connect, or come back, from the cursor; every thread keeps its own. Also hurries a waiting reconnection. */
  connect(change?: { threadId?: string | undefined }): void;
  /** Drop the connection and stay away; the cursor and unanswered messages are kept for `connect`. */
  disconnect(): void;
  /** The end: unanswered requests are rejected and nothing can be sent any more. */
  close(): void;
  /**
   * Start a run. Told at once as a `user_message` of origin `local`; settles when the server has accepted it, however
   * many reconnections that takes. Sending again with the same `id` gives the same run.
   * @throws {RuncastError}
   */
  send(content: Json, options?: { threadId?: string; agent?: string; metadata?: JsonObject; id?: string }): Promise<Accepted>;
  /** Ask a run to stop; its `agent_completed` tells when it has. @throws {RuncastError} */
  stop(runId: string): Promise<unknown>;
  /** Answer an `input_required`. @throws {RuncastError} */
  answer(runId: string, requestId: string, content: Json): Promise<unknown>;
  /** Factory strict: follow one more run of this user. */
  attach(runId: string, options?: { after?: string }): Promise<void>;
  /** Factory strict: follow it no longer. */
  detach(runId: string): Promise<void>;
}

/** A request that the server answered with an error, or that a final close left unanswered (`code: "closed"`). */
export class RuncastError extends Error {
  constructor(code: string, message: string, retryable?: boolean);
  readonly code: string;
  readonly retryable: boolean;
}

export const SUBPROTOCOL: "runcast.v3";
export const LIFECYCLE: readonly LifecycleType[];
/** What a client does after each close code. */
export const CLOSE_CODES: Readonly<Record<number, "stop" | "told" | "renew" | "later" | "backoff">>;
/** Order of two cursors: negative, zero or positive; NaN when either is none. */
export function compareCursors(one: string | null | undefined, other: string | null | undefined): number;
/** Milliseconds before attempt 0, 1, 2…: full jitter below a ceiling that doubles from 250 to 15 000. */
export function backoff(attempt: number, random?: () => number): number;
/** 128 random bits as hexadecimal digits. */
export function newId(): string;
