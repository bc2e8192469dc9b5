/** The operators' console: who may see it, what is asked when, and what that makes of the page. */

import { Acts, tell } from "./console-acts.js";
import { RunPanel } from "./console-run.js";
import { ADMIN, Poller, Refused, Source } from "./console-source.js";
import { between, nodeRates, problems } from "./console-status.js";
import { makeTables } from "./console-tables.js";
import { Chart } from "./chart.js";
import { element, setText } from "./dom.js";
import { age, brief, clock, count, plural } from "./format.js";
import { showTheme } from "./theme-button.js";

const KEPT = "runcast.operator"; // in this tab only
const MOST_ENTRIES = 10;
const TITLE = document.title;
const part = (id) => document.getElementById(id);

/** What is asked of the gateway. /ws/stats looks at every open run, so it is asked less often. */
const FEEDS = [
  { name: "health", needs: "open", seconds: 3, path: () => "/ws/health" },
  { name: "stats", needs: "open", seconds: 5, path: () => "/ws/stats" },
  { name: "nodes", needs: "fleet", seconds: 2, path: () => `${ADMIN}/nodes` },
  { name: "agents", needs: "fleet", seconds: 2, path: () => `${ADMIN}/agents` },
  { name: "workers", needs: "fleet", seconds: 2, path: () => `${ADMIN}/workers` },
  { name: "runs", needs: "operator", seconds: 2, path: () => `${ADMIN}/runs?limit=100${page ? `&after=${page}` : ""}` },
  { name: "slow", needs: "operator", seconds: 2, path: () => `${ADMIN}/connections/slow` },
  { name: "audit", needs: "operator", seconds: 5, path: () => `${ADMIN}/audit?limit=${MOST_ENTRIES}` },
];

let source = new Source(null);
let poller = null;
let page = ""; // of the runs in flight
let first = null; // the fleet's figures when the page was opened
let before = null; // … and at the last look, with its time
let rates = new Map();
let nodesBefore = [];
let staleSince = null; // when everything was answered last, if it is not now

const acts = () => new Acts(source, () => poller?.now("nodes", "runs", "slow", "audit"));
const panel = new RunPanel(part("runPanel"), () => source, acts);
const tables = makeTables({ acts, watch: (run) => panel.open(run) });
const charts = {
  rates: new Chart(part("rates"), { title: "Events", unit: "per second", series: [{ name: "published", value: "published" }, { name: "delivered", value: "delivered" }] }),
  latency: new Chart(part("latency"), { title: "From Redis to the gateways", unit: "ms", series: [{ name: "p50", value: "p50" }, { name: "p95", value: "p95" }, { name: "p99", value: "p99" }] }),
};

// ---- who is operating

function kept() {
  try {
    return sessionStorage.getItem(KEPT);
  } catch {
    return null;
  }
}

function keep(token) {
  try {
    if (token === null) sessionStorage.removeItem(KEPT);
    else sessionStorage.setItem(KEPT, token);
  } catch {
    // Then it is forgotten with the page.
  }
}

/** What this token may see: nothing, what is open to anyone on this machine, a tenant, or the fleet. */
async function rightsOf(asking) {
  if (asking.token !== null) {
    await asking.get(`${ADMIN}/limits`);
    try {
      await asking.get(`${ADMIN}/nodes`);
      return "fleet";
    } catch (error) {
      if (error instanceof Refused && error.forbidden) return "operator";
      throw error;
    }
  }
  return (await asking.get("/ws/config")).open_stats ? "open" : "nothing";
}

const MAY = { nothing: [], open: ["open"], operator: ["open", "operator"], fleet: ["open", "operator", "fleet"] };

function show(rights) {
  const may = MAY[rights];
  for (const section of document.querySelectorAll("[data-needs]")) section.hidden = !may.includes(section.dataset.needs);
  part("login").hidden = may.includes("operator");
  part("logout").hidden = !may.includes("operator");
  part("fleet").hidden = rights === "nothing";
  if (rights === "open") setText(part("loginText"), "These are the figures that are open on this machine. Gateways, workers and runs are for operators: with the operator key, or a token whose role is operator.");
  poller?.stop();
  if (rights === "nothing") {
    showLink("waiting", "Not logged in");
    return;
  }
  first = before = null;
  poller = new Poller(source, FEEDS.filter(({ needs }) => may.includes(needs)), { onData, onTrouble, onForbidden });
  poller.start();
}

async function enter(token) {
  const asking = new Source(token);
  const rights = await rightsOf(asking);
  source = asking;
  show(rights);
  return rights;
}

/** As somebody without a token; with what is open, if anything is. */
async function enterOpen(text = "") {
  keep(null);
  panel.close();
  setText(part("loginProblem"), text);
  part("login").hidden = false;
  try {
    await enter(null);
  } catch (error) {
    show("nothing");
    setText(part("loginProblem"), error.message);
  }
}

part("loginForm").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = part("token"), token = field.value.trim();
  setText(part("loginProblem"), "");
  try {
    // A header takes no other letters.
    if (!/^[\x20-\x7e]+$/.test(token)) throw new Error("A token has only letters, digits and signs of ASCII.");
    await enter(token);
    keep(token);
    field.value = "";
    part("main").focus();
  } catch (error) {
    setText(part("loginProblem"), error.message);
    field.focus();
  }
});
part("logout").addEventListener("click", async () => {
  await enterOpen();
  part("token").focus();
});

// ---- what is told

function showLink(state, text) {
  part("link").dataset.state = state;
  setText(part("link"), text);
}

function onForbidden(_feed, error) {
  if (source.token !== null) enterOpen(`You were logged out. ${error.message}`);
}

function onTrouble(error) {
  const at = poller.goodSince;
  staleSince = error === null ? null : at ? clock(at) : "";
  part("stale").hidden = error === null;
  document.body.dataset.stale = String(error !== null);
  setText(part("staleText"), error === null ? "" : `${error.message} ${at ? `What is shown is from ${clock(at)}.` : "Nothing is known yet."} Trying again.`);
  showLink(error === null ? "live" : "stopped", error === null ? "Live" : at ? `Stale since ${clock(at)}` : "No answer");
}

function onData(changed) {
  const { data } = poller;
  if (changed.has("stats")) onStats(data.stats.fleet);
  if (changed.has("nodes")) onNodes(data.nodes);
  if (changed.has("runs")) onRuns(data.runs);
  if (data.nodes) tables.nodes.update([
    ...data.nodes.nodes.map((node, index) => ({ ...node, here: index === 0, rate: rates.get(node.node_id) ?? null })),
    ...data.nodes.gone.map((node) => ({ ...node, gone: true, dim: true, rate: null })),
  ]);
  if (data.agents) {
    const ended = data.stats?.fleet.runs?.by_agent ?? {};
    tables.agents.update(data.agents.agents.map((agent) => ({ ...agent, ended: ended[agent.name] ?? { total: 0, incomplete: 0, abandoned: 0 } })));
  }
  if (data.workers) tables.workers.update(data.workers.workers);
  if (data.slow) tables.slow.update(data.slow.connections);
  if (data.audit) tables.audit.update(data.audit.entries);
  showStatus(data);
}

function onStats(fleet) {
  const now = Date.now() / 1000;
  first ??= fleet;
  const point = before && between(before.fleet, fleet, now - before.now);
  poller.data.window = point ?? {};
  const gap = { published: null, delivered: null, p50: null, p95: null, p99: null };
  if (before) for (const chart of Object.values(charts)) chart.add({ at: now, ...(point ?? gap) });
  before = { fleet, now };
}

/** A gateway reports every few seconds: its rate is between two reports, not between two looks. */
function onNodes({ nodes }) {
  const old = new Map(nodesBefore.map((node) => [node.node_id, node]));
  const fresh = nodes.filter((node) => Date.parse(node.reported_at) - Date.parse(old.get(node.node_id)?.reported_at ?? 0) > 1000);
  for (const [name, rate] of nodeRates(nodesBefore, fresh)) rates.set(name, rate);
  nodesBefore = [...nodes.filter((node) => !fresh.includes(node)).map((node) => old.get(node.node_id)), ...fresh];
}

function onRuns({ runs, after, total }) {
  tables.runs.update([...runs].sort((one, other) => one.created_at.localeCompare(other.created_at)));
  part("paging").hidden = !after && !page;
  part("firstPage").hidden = !page;
  part("nextPage").hidden = !after;
  part("nextPage").onclick = () => turn(after);
  setText(part("pagingText"), `${count(runs.length)} of ${total === null ? "those" : count(total)} in flight, the oldest first. Any is found by its id.`);
}

function turn(to) {
  page = to;
  poller.now("runs");
}
part("firstPage").addEventListener("click", () => turn(""));

function showStatus(data) {
  // While nothing is answered, nobody falls silent but the one who is asked.
  const found = problems(data, { now: poller.goodSince ?? Date.now(), first });
  const bad = found.some(({ tone }) => tone === "bad");
  const verdict = part("verdict");
  if (staleSince === null) {
    verdict.dataset.tone = bad ? "bad" : found.length ? "warn" : "good";
    setText(verdict, found.length ? `${plural(found.length, "thing needs", "things need")} a look` : "All is well");
  } else {
    verdict.dataset.tone = "bad";
    setText(verdict, staleSince ? `Unknown: this is how it was at ${staleSince}` : "Unknown: nothing was answered yet");
  }
  document.title = found.length ? `(${found.length}) ${TITLE}` : TITLE;
  const list = part("problems");
  while (list.children.length > found.length) list.lastElementChild.remove();
  found.forEach(({ text, tone, where }, index) => {
    let line = list.children[index];
    if (line?.dataset.where !== (where ?? "")) { // what is said grows older, its line stays: somebody may be on it
      const fresh = element("li", { data: { where: where ?? "" } }, element("b"), where ? element("a", { href: `#${where}` }) : element("span"));
      line?.replaceWith(fresh);
      if (!line) list.append(fresh);
      line = fresh;
    }
    line.dataset.tone = tone;
    setText(line.firstElementChild, tone === "bad" ? "Problem" : "Watch");
    setText(line.lastElementChild, text);
  });
  showFigures(data);
}

function showFigures({ stats, nodes, agents, slow, window }) {
  const fleet = stats?.fleet ?? {}, states = fleet.runs?.by_state;
  const queue = agents?.agents ?? [];
  const waiting = queue.reduce((sum, agent) => sum + agent.waiting, 0);
  const oldest = Math.max(0, ...queue.map((agent) => agent.oldest_waiting_seconds ?? 0));
  const tenants = Object.values(fleet.by_tenant ?? {});
  const figures = [
    ["Gateways", nodes ? `${nodes.nodes.filter((node) => node.ready).length} of ${nodes.nodes.length}` : count(fleet.nodes), nodes ? "ready" : ""],
    ["Connections", count(fleet.connections?.total ?? tenants[0]?.connections), ""],
    states && ["Runs in flight", count(states.queued + states.running + states.waiting), `${count(states.queued)} queued, ${count(states.running)} running, ${count(states.waiting)} waiting`],
    agents && ["Requests waiting", count(waiting), waiting ? `the oldest for ${age(oldest)}` : ""],
    fleet.events && ["Events delivered", window?.delivered === undefined ? "–" : `${brief(window.delivered)} /s`, ""],
    fleet.latency_ms && ["Latency p95", window?.p95 ? `${brief(window.p95)} ms` : "–", window?.p99 ? `p99 ${brief(window.p99)} ms` : ""],
    slow && ["Slow clients", count(slow.connections.length), ""],
  ].filter(Boolean);
  const list = part("figures");
  if (list.children.length !== figures.length) {
    list.replaceChildren(...figures.map(() => element("div", {}, element("dt"), element("dd", { class: "number" }), element("dd", { class: "soft small" }))));
  }
  figures.forEach((texts, index) => texts.forEach((text, at) => setText(list.children[index].children[at], text)));
}

// ---- what is asked by hand

part("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  const id = part("runId").value.trim();
  tables.found.update([]);
  setText(part("found"), "Looking …");
  try {
    const { runs } = await source.get(`${ADMIN}/runs?run_id=${encodeURIComponent(id)}`);
    setText(part("found"), runs.length ? `${plural(runs.length, "run")} found.` : `No run ${id} is known: runs are kept for the retention time.`);
    if (runs.length > 1) tables.found.update(runs);
    if (runs.length === 1) panel.open(runs[0]);
  } catch (error) {
    setText(part("found"), "");
    tell("bad", `Find run ${id}: ${error.message}`);
  }
});
part("disconnect").addEventListener("submit", (event) => {
  event.preventDefault();
  acts().disconnect({ user_id: part("userId").value.trim(), tenant: part("tenant").value.trim() });
});
part("again").addEventListener("click", () => poller?.now());

showTheme();
const token = kept();
if (token === null) {
  enterOpen();
} else {
  enter(token).catch((error) => (error instanceof Refused && error.forbidden ? enterOpen(error.message) : (part("login").hidden = false, setText(part("loginProblem"), error.message))));
}
