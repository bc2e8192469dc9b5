/** What each of the console's tables shows. */

import { element } from "./dom.js";
import { age, brief, bytes, clock, count } from "./format.js";
import { stateOf, toneOf } from "./console-run.js";
import { since } from "./console-status.js";
import { Table } from "./console-table.js";

const SILENT_SECONDS = 12;
const SHORT = 12; // of an id's end: ids made together begin alike

const button = (text, press, options = {}) => element("button", { class: "quiet", type: "button", text, onclick: press, ...options });
const danger = (text, press) => button(text, press, { class: "quiet danger" });
const whose = ({ user_id, tenant }) => (tenant ? `${user_id} (${tenant})` : user_id);

/** Of a long id its end. */
export const short = (id) => (id.length > SHORT + 1 ? `…${id.slice(-SHORT)}` : id);

function gatewayState(node) {
  if (node.gone) return node.draining ? "left" : "gone";
  if (since(node.reported_at, Date.now()) > SILENT_SECONDS) return "silent";
  if (node.draining) return "draining";
  return node.ready ? "ready" : "not ready";
}

const GATEWAY_TONES = { ready: "good", draining: "warn", left: "" };

const WHAT = {
  disconnect: (entry) => `disconnected ${whose(entry)}`,
  revoke: (entry) => (entry.jti ? `revoked token ${entry.jti}` : `revoked tokens of ${whose(entry)}`),
  drain: (entry) => `drained gateway ${entry.node_id}`,
  stop: (entry) => `stopped run ${entry.run_id} of ${whose(entry)}`,
};

/** @param {{acts: () => import("./console-acts.js").Acts, watch: (run: any) => void}} handlers */
export function makeTables({ acts, watch }) {
  const place = (id) => document.getElementById(id);
  const runColumns = [
    { title: "Run", kind: "id", controls: (current) => [button(current().run_id, () => watch(current()), { class: "link" })] },
    { title: "Agent", text: (run) => run.agent_name },
    { title: "User", text: whose },
    { title: "State", text: stateOf, tone: toneOf },
    { title: "Age", kind: "number", text: (run) => age((Date.parse(run.completed_at ?? new Date().toISOString()) - Date.parse(run.created_at)) / 1000) },
    { title: "Events", kind: "number", text: (run) => count(run.events) },
    { title: "Worker", kind: "id", text: (run) => (run.worker_id ? short(run.worker_id) : "–") },
    { title: "Actions", controls: (current) => [button("Watch", () => watch(current())), danger("Stop…", () => acts().stop(current()))], allowed: (run) => run.state !== "completed" },
  ];
  const runs = (id, label, empty) => new Table(place(id), { label, key: (run) => `${run.tenant}\n${run.user_id}\n${run.run_id}`, empty, columns: runColumns });
  return {
    runs: runs("runs", "Runs in flight", "No run is in flight."),
    found: runs("foundRuns", "Runs that were found", ""),
    nodes: new Table(place("nodes"), {
      label: "Gateways", key: (node) => node.node_id, empty: "No gateway has reported yet.",
      columns: [
        { title: "Gateway", kind: "id", text: (node) => node.node_id },
        { title: "State", text: gatewayState, tone: (node) => GATEWAY_TONES[gatewayState(node)] ?? "bad" },
        { title: "Connections", kind: "number", text: (node) => count(node.connections.total) },
        { title: "Delivers", kind: "number", text: (node) => (node.rate === null ? "–" : `${brief(node.rate)} /s`) },
        { title: "p95", kind: "number", text: (node) => (node.latency_ms.p95 === null ? "–" : `${brief(node.latency_ms.p95)} ms`) },
        { title: "Slow", kind: "number", text: (node) => count(node.slow) },
        { title: "Unsent", kind: "number", text: (node) => bytes(node.unsent_bytes) },
        { title: "Up", kind: "number", text: (node) => age(node.uptime_seconds) },
        { title: "Version", text: (node) => node.version || "–" },
        { title: "Heard", kind: "number", text: (node) => (node.here ? "answers here" : `${age(since(node.reported_at, Date.now()))} ago`) },
        { title: "Actions", controls: (current) => [danger("Drain…", () => acts().drain(current()))], allowed: (node) => !node.gone && !node.draining },
      ],
    }),
    agents: new Table(place("agents"), {
      label: "Agents and their queues", key: (agent) => agent.name, empty: "No worker has announced an agent.",
      columns: [
        { title: "Agent", text: (agent) => agent.name },
        { title: "Waiting", kind: "number", text: (agent) => count(agent.waiting) },
        { title: "Oldest waits", kind: "number", text: (agent) => age(agent.oldest_waiting_seconds) },
        { title: "Running", kind: "number", text: (agent) => `${count(agent.running)} of ${count(agent.capacity)}` },
        { title: "Workers", kind: "number", text: (agent) => count(agent.workers) },
        { title: "Ended", kind: "number", text: (agent) => count(agent.ended.total) },
        { title: "Incomplete", kind: "number", text: (agent) => count(agent.ended.incomplete) },
        { title: "Abandoned", kind: "number", text: (agent) => count(agent.ended.abandoned) },
      ],
    }),
    workers: new Table(place("workers"), {
      label: "Workers", key: (worker) => worker.worker_id, empty: "No worker has reported.",
      columns: [
        { title: "Worker", kind: "id", text: (worker) => worker.worker_id },
        { title: "State", text: (worker) => (worker.silent ? "silent" : worker.busy >= worker.concurrency ? "full" : "serving"), tone: (worker) => (worker.silent ? "bad" : worker.busy >= worker.concurrency ? "warn" : "good") },
        { title: "Busy", kind: "number", text: (worker) => `${count(worker.busy)} of ${count(worker.concurrency)}` },
        { title: "Agents", text: (worker) => Object.entries(worker.running).map(([name, n]) => (n ? `${name} (${n})` : name)).join(", ") },
        { title: "Heartbeat", kind: "number", text: (worker) => `${age(since(worker.reported_at, Date.now()))} ago` },
      ],
    }),
    slow: new Table(place("slow"), {
      label: "Slow clients", key: (each) => each.connection_id, empty: "Every client takes what it is sent.",
      columns: [
        { title: "User", text: whose },
        { title: "State", text: (each) => (each.lagging ? "does not keep up" : "behind"), tone: (each) => (each.lagging ? "bad" : "warn") },
        { title: "Unsent", kind: "number", text: (each) => bytes(each.unsent_bytes) },
        { title: "Since", kind: "number", text: (each) => age(since(each.since, Date.now())) },
        { title: "Kind", text: (each) => `${each.mode}, ${each.transport}` },
        { title: "Gateway", kind: "id", text: (each) => short(each.node_id) },
        { title: "Actions", controls: (current) => [danger("Disconnect…", () => acts().disconnect(current()))] },
      ],
    }),
    audit: new Table(place("audit"), {
      label: "What operators did last", key: (entry) => entry.id, empty: "Nothing yet.",
      columns: [
        { title: "When", kind: "number", text: (entry) => clock(entry.at) },
        { title: "Who", text: (entry) => entry.by ?? "–" },
        { title: "What", text: (entry) => WHAT[entry.verb]?.(entry) ?? entry.verb ?? "–" },
        { title: "Why", text: (entry) => entry.reason ?? "" },
      ],
    }),
  };
}
