// Made by docs/generate.py from the tables of broker/events.py: do not edit.

export type Json = string | number | boolean | null | Json[] | JsonObject;
export interface JsonObject { [name: string]: Json }

/** The facts of a run, in the order in which a complete run reports them. */
export type LifecycleType = "agent_started" | "agent_thinking" | "tool_executing" | "tool_completed" | "agent_completed";

/** How a run ends. */
export type RunStatus = "succeeded" | "failed" | "cancelled" | "abandoned";

export interface RunProblem { code: string; message: string }

/** What every event has; fields that a later server adds are let through. */
export interface Envelope<Type extends string, Payload> {
  type: Type;
  /** The cursor. Absent in legacy mode, on streamed text and on a message only sent. */
  id?: string;
  user_id?: string;
  thread_id: string;
  /** Empty on a message that has only been sent. */
  run_id: string;
  /** Of a sub-agent's run. */
  parent_run_id?: string;
  agent_name: string;
  /** 1, 2, 3… within the run. */
  seq?: number;
  /** From the run's second attempt on. */
  attempt?: number;
  /** To which trace the run belongs (W3C Trace Context), if to any. */
  traceparent?: string;
  timestamp?: string;
  payload: Payload;
}

export interface AgentStartedPayload {
  message: string;
  input?: Json;
  metadata?: JsonObject;
}

export interface AgentThinkingPayload {
  thoughts: string;
  step?: number;
  progress?: number;
}

export interface ToolExecutingPayload {
  tool: string;
  call_id: string;
  status: "running";
  parameters?: Json;
  purpose?: string;
}

export interface ToolCompletedPayload {
  tool: string;
  call_id: string;
  success: boolean;
  result: Json;
  duration_ms: number;
  error?: RunProblem;
}

export interface AgentCompletedPayload {
  response: Json;
  complete: true;
  status: RunStatus;
  duration_ms: number;
  missing: LifecycleType[];
  error?: RunProblem;
  usage?: JsonObject;
}

/** A question to the user; `schema` is a JSON Schema of the answer. */
export interface InputRequiredPayload {
  request_id: string;
  prompt: string;
  expires_at: string;
  schema?: JsonObject;
}

/** Streamed text: `offset` and `next` count UTF-8 bytes. */
export interface AgentDeltaPayload { offset: number; next: number; text: string }

/** What the user wrote, in every tab of his; `message_id` is the one that it was sent with. */
export interface UserMessagePayload { content: Json; message_id: string; metadata: JsonObject }

/** The user's answer to an `input_required`, in every tab of his. */
export interface UserInputPayload { request_id: string; content: Json }

export interface EventPayloads {
  agent_started: AgentStartedPayload;
  agent_thinking: AgentThinkingPayload;
  tool_executing: ToolExecutingPayload;
  tool_completed: ToolCompletedPayload;
  agent_completed: AgentCompletedPayload;
  input_required: InputRequiredPayload;
  agent_delta: AgentDeltaPayload;
  user_message: UserMessagePayload;
  user_input: UserInputPayload;
  /** Somebody has asked for the run's end. */
  stop_requested: JsonObject;
}

export type EventType = keyof EventPayloads;

/** Any event; `switch (event.type)` tells which. */
export type RuncastEvent<Type extends EventType = EventType> =
  Type extends EventType ? Envelope<Type, EventPayloads[Type]> : never;
