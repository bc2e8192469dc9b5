/**
 * What is wrong, in words, and what happened between two looks. Pure: data in, values out.
 *
 * @typedef {object} Problem
 * @property {"bad" | "warn"} tone
 * @property {string} text     Names what it concerns.
 * @property {string} [where]  Id of the section that shows more.
 */

import { age, brief, bytes, clock, plural } from "./format.js";

const SILENT_SECONDS = 12; // gateways and workers report every five seconds
const WAITING_SECONDS = 10; // a request that has waited for longer is late
const LATE_MS = 1000; // of p99
const MOST_NAMED = 5; // of one kind; the others are counted

/** Seconds since a moment, never negative: clocks differ. */
export const since = (moment, now) => Math.max(0, (now - Date.parse(moment)) / 1000);

/** A list of the worst, and one line for the rest. */
function some(problems, rest) {
  if (problems.length <= MOST_NAMED) return problems;
  const { tone, where } = problems[0];
  return [...problems.slice(0, MOST_NAMED), { tone, where, text: `${plural(problems.length - MOST_NAMED, "more", "more")} ${rest}.` }];
}

function ofHealth(health) {
  const told = { redis: "Redis does not answer", pubsub: "This gateway does not hear Redis", sweeper: "No gateway looks after lost runs", keys: "Keys of tokens are missing" };
  return Object.entries(health?.checks ?? {}).filter(([, check]) => !check.ok)
    .map(([name, check]) => ({ tone: "bad", text: `${told[name] ?? name}: ${check.detail}.` }));
}

function ofGateways({ nodes = [], gone = [] }, now) {
  const where = "nodes";
  const silent = nodes.filter((node) => since(node.reported_at, now) > SILENT_SECONDS);
  return [
    ...some(gone.filter((node) => !node.draining).map((node) => ({
      tone: "bad", where, text: `Gateway ${node.node_id} is gone: last heard at ${clock(node.reported_at)}, with ${plural(node.connections.total, "connection")}.`,
    })), "gateways are gone"),
    ...silent.map((node) => ({ tone: "bad", where, text: `Gateway ${node.node_id} has been silent for ${age(since(node.reported_at, now))}.` })),
    ...nodes.filter((node) => !node.ready && !node.draining && !silent.includes(node))
      .map((node) => ({ tone: "bad", where, text: `Gateway ${node.node_id} is not ready: it does not hear Redis.` })),
    ...nodes.filter((node) => node.draining)
      .map((node) => ({ tone: "warn", where, text: `Gateway ${node.node_id} is draining: ${plural(node.connections.total, "connection")} left.` })),
  ];
}

function ofAgents(agents) {
  const where = "agents";
  return agents.flatMap(({ name, waiting, oldest_waiting_seconds: oldest, workers, capacity, running }) => {
    const queue = `${plural(waiting, "request waits", "requests wait")}, the oldest for ${age(oldest)}`;
    if (workers === 0) return [{ tone: waiting ? "bad" : "warn", where, text: `Agent ${name} has no worker${waiting ? `: ${queue}` : ""}.` }];
    if (waiting && oldest > WAITING_SECONDS) return [{ tone: "bad", where, text: `Agent ${name} is late: ${queue}${running >= capacity ? ", and its workers are full" : ""}.` }];
    return running >= capacity ? [{ tone: "warn", where, text: `Workers of agent ${name} are full: ${running} of ${capacity}.` }] : [];
  });
}

function ofWorkers(workers, now) {
  return some(workers.filter((worker) => worker.silent).map((worker) => ({
    tone: "bad", where: "workers",
    text: `Worker ${worker.worker_id} has been silent for ${age(since(worker.reported_at, now))}, with ${plural(worker.busy, "run")}.`,
  })), "workers are silent");
}

function ofSlow(connections) {
  const lagging = connections.filter((each) => each.lagging);
  if (!lagging.length) return [];
  const [worst] = lagging;
  return [{ tone: "warn", where: "slow", text: `${plural(lagging.length, "client does", "clients do")} not keep up: ${worst.user_id} has ${bytes(worst.unsent_bytes)} unsent at gateway ${worst.node_id}.` }];
}

function ofFigures(stats, first) {
  const where = "agents", found = [];
  const violations = stats.events?.isolation_violations;
  if (violations) found.push({ tone: "bad", text: `${plural(violations, "event was", "events were")} withheld: about to reach somebody else. Look for isolation_violation in the logs.` });
  for (const [agent, row] of Object.entries(stats.runs?.by_agent ?? {})) {
    const abandoned = row.abandoned - (first?.runs?.by_agent?.[agent]?.abandoned ?? 0);
    if (abandoned > 0) found.push({ tone: "warn", where, text: `Agent ${agent}: ${plural(abandoned, "run")} abandoned since this page was opened.` });
  }
  return found;
}

/**
 * All that is wrong, the worst first.
 * @param {Record<string, any>} data  What was answered last, by feed.
 * @param {{now: number, first?: any}} when  `first`: the fleet's figures when the page was opened.
 * @returns {Problem[]}
 */
export function problems(data, { now, first }) {
  const found = [
    ...ofHealth(data.health),
    ...ofGateways(data.nodes ?? {}, now),
    ...ofWorkers(data.workers?.workers ?? [], now),
    ...ofAgents(data.agents?.agents ?? []),
    ...ofFigures(data.stats?.fleet ?? {}, first),
    ...ofSlow(data.slow?.connections ?? []),
  ];
  const p99 = data.window?.p99;
  if (p99 > LATE_MS) found.push({ tone: "warn", where: "latency", text: `Events are late: p99 is ${brief(p99)} ms.` });
  return [...found.filter(({ tone }) => tone === "bad"), ...found.filter(({ tone }) => tone !== "bad")];
}

/** The percentiles of what came between two states of a histogram; null where nothing came. */
export function percentiles(before, after) {
  const was = new Map(before);
  const counts = after.map(([edge, count]) => [edge, Math.max(0, count - (was.get(edge) ?? 0))]).sort(([one], [other]) => one - other);
  const total = counts.reduce((sum, [, count]) => sum + count, 0);
  return Object.fromEntries([50, 95, 99].map((percent) => {
    let seen = 0;
    const found = counts.find(([, count]) => (seen += count) >= total * percent / 100 && count > 0);
    return [`p${percent}`, total && found ? found[0] : null];
  }));
}

/**
 * What happened in the fleet between two looks, as a point of the charts; null when that cannot be told: a
 * gateway has gone with its counters, or just come.
 */
export function between(before, after, seconds) {
  if (!before?.events || before.nodes !== after.nodes || seconds <= 0) return null;
  const rate = (name) => (after.events[name] - before.events[name]) / seconds;
  const [published, delivered] = ["published", "delivered"].map(rate);
  if (delivered < 0) return null;
  return { published: Math.max(0, published), delivered, ...percentiles(before.latency_buckets, after.latency_buckets) };
}

/** Events per second that each gateway delivered between two of its reports, by its id. */
export function nodeRates(before, after) {
  const was = new Map(before.map((node) => [node.node_id, node]));
  return new Map(after.map((node) => {
    const old = was.get(node.node_id);
    const seconds = old ? (Date.parse(node.reported_at) - Date.parse(old.reported_at)) / 1000 : 0;
    return [node.node_id, seconds > 0 ? Math.max(0, (node.events.delivered - old.events.delivered) / seconds) : null];
  }));
}
