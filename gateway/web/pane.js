/**
 * One user's chat: login, connection, conversation, composer. Two of them side by side know nothing of each other.
 * Long, and one class, for its parts share one state: who is logged in, how the connection is, which run is open.
 */

import { FrameList } from "./frames.js";
import { element, setText, stamp } from "./dom.js";
import { RuncastClient, newId } from "./runcast.js";
import { Conversation, asText } from "./runs.js";
import { Threads, drawThreads } from "./threads.js";
import { Timeline } from "./timeline.js";

const FIRST_THREAD = "chat-1";
const FOLLOW_WITHIN_PX = 80; // nearer to the end than this, the view follows new events
const WIDE_PANE_PX = 560;
const SHORT_ABSENCE_MS = 2_000; // of which nobody needs to be told, if nothing was missed

const STATE_WORDS = {
  idle: "Dropped",
  connecting: "Connecting…",
  catching_up: "Catching up…",
  live: "Live",
  waiting: "Reconnecting…",
  stopped: "Closed",
  closed: "Closed",
};

const RESYNC_WORDS = {
  expired: "Some of what happened is no longer kept. Everything that still is follows.",
  forked: "The record of this conversation was repaired after a failure, and some events may be lost. It goes on from the last point that is certain.",
  unknown_cursor: "The place where you left is not known any more. You see what happens from now on.",
  overrun: "This page fell too far behind, and some events could not be kept for it. It goes on from here.",
};

const CLOSED_WORDS = {
  1000: "The server ended the connection.",
  1009: "The message was too large for the server.",
  4400: "The server did not understand this page and closed the connection.",
  4401: "Your access has expired or was withdrawn. Log in again.",
  4403: "You may not use this connection.",
  4409: "This conversation was taken up somewhere else.",
};

const SCOPE_HINTS = {
  main: (name, thread) => thread ? `Every tab of ${name} that follows this thread sees these runs.` : `Every tab of ${name} sees these runs, in all threads.`,
  standard: (name, thread) => thread ? `Only ${name}’s connections to this very thread see these runs.` : "A new thread is made for this connection.",
  strict: () => "Each run has a channel of its own. Other connections see it only by attaching to it.",
  isolated: (name) => `Only this one connection sees these runs, not even another tab of ${name}.`,
  legacy: () => "Events in the older shape, without streamed text. What happens while the connection is lost is not shown.",
};

/** What a pane remembers while its tab lives: never shared between tabs. */
class Memory {
  constructor(name) {
    this.key = `runcast.pane.${name}`;
  }

  read() {
    try {
      return JSON.parse(sessionStorage.getItem(this.key) ?? "{}");
    } catch {
      return {};
    }
  }

  write(change) {
    try {
      sessionStorage.setItem(this.key, JSON.stringify({ ...this.read(), ...change }));
    } catch {
      // Without storage it is forgotten at the next reload, no more.
    }
  }
}

export class Pane {
  #access;
  #memory;
  #part;
  #person = null;
  #chat = null;
  #conversation = new Conversation();
  #timeline = null;
  #frames;
  #hue;
  #awaited = false; // a frame to draw in has been asked for
  #followNext = false;
  #resumedEvents = 0;
  #wasLive = false;
  #threadsAsked = false;
  #awaySince = 0;
  #threads = null;

  /**
   * @param {import("./access.js").Access} access
   * @param {{name: string, place: HTMLElement, person?: {id: string, name: string}, hue?: number}} options  `person`: to
   *   be logged in at once.
   */
  constructor(access, { name, place, person, hue = 0 }) {
    const { root, part } = stamp("pane");
    this.root = root;
    place.append(root);
    this.#access = access;
    this.#memory = new Memory(name);
    this.#part = part;
    this.#hue = hue;
    this.#frames = new FrameList(part);
    this.#wire();
    this.#offerLogin();
    const remembered = this.#memory.read();
    if (remembered.token && !access.demo) this.#enter(access.personOf(remembered.token));
    else if (person) this.#enter(person);
    else if (access.demo) {
      const again = access.people.find(({ id }) => id === remembered.person);
      if (again) this.#enter(again);
    }
  }

  // ---- login

  #offerLogin() {
    const { login, room, people, tokenForm, loginTitle, loginText } = this.#part;
    login.hidden = false;
    room.hidden = true;
    this.root.setAttribute("aria-label", "Chat");
    tokenForm.hidden = this.#access.demo;
    if (!this.#access.demo) {
      setText(loginTitle, "Connect");
      setText(loginText, "Paste the access token that your operator gave you. It is kept in this tab only.");
    }
    people.replaceChildren(...this.#access.people.map((person, index) =>
      element("button", { class: "person", type: "button", data: { hue: index }, onclick: () => this.#enter(person) },
        element("span", { class: "avatar", text: initial(person), "aria-hidden": "true" }),
        element("span", { text: person.name }))));
  }

  #enter(person) {
    const part = this.#part;
    this.#person = person;
    this.#memory.write({ person: person.id });
    const index = this.#access.people.findIndex(({ id }) => id === person.id);
    this.root.dataset.hue = String(index < 0 ? this.#hue : index);
    this.root.setAttribute("aria-label", `Chat of ${person.name}`);
    part.login.hidden = true;
    part.room.hidden = false;
    setText(part.loginProblem, "");
    setText(part.name, person.name);
    setText(part.avatar, initial(person));
    setText(part.emptyTitle, `What would you like to know, ${person.name}?`);
    const { mode = "main", level = "standard", thread = FIRST_THREAD } = this.#memory.read();
    part.mode.value = mode;
    part.level.value = level;
    part.thread.value = thread;
    part.threads.open = part.scope.open = this.root.clientWidth >= WIDE_PANE_PX;
    this.#threads = new Threads(person.id, () => this.#showThreads());
    this.#threadsAsked = false;
    this.#openChat();
    part.question.focus({ preventScroll: true });
  }

  /** Those that the server knows, from other browsers too; without them the list is what this one remembers. */
  async #fetchThreads(threads) {
    this.#threadsAsked = true;
    try {
      const token = await this.#access.token(this.#person, { fresh: false });
      const response = await fetch("/api/v1/threads?limit=50", { headers: { Authorization: `Bearer ${token}` } });
      const told = response.ok ? (await response.json()).threads : [];
      for (const { thread_id: id, used_at: used } of told) threads.note(id, "", Date.parse(used));
    } catch {
      return; // offline, say: the connection tells that
    }
    if (threads === this.#threads) this.#showThreads();
  }

  #leave(problem = "") {
    this.#chat?.close();
    this.#chat = null;
    this.#person = null;
    if (!this.#access.demo) this.#threads?.forget();
    this.#threads?.close();
    this.#memory.write({ person: undefined, token: undefined });
    this.#offerLogin();
    setText(this.#part.loginProblem, problem);
    this.#part.login.querySelector("button, input")?.focus();
  }

  // ---- the connection

  #openChat() {
    const { mode, level, thread } = this.#scope();
    const part = this.#part;
    this.#chat?.close();
    this.#conversation = new Conversation({ answersInOrder: mode === "legacy" });
    this.#timeline = new Timeline(part.entries, this.#person.name, {
      stop: (runId) => this.#act(this.#chat.stop(runId), () => this.#stopFailed(runId)),
      answer: (runId, requestId, content) => this.#act(this.#chat.answer(runId, requestId, content)),
    });
    this.#frames.clear();
    this.#wasLive = false;
    this.#describeScope();
    const keepsLog = mode === "main" || (mode === "factory" && level === "standard" && thread);
    const person = this.#person;
    const chat = new RuncastClient({
      mode,
      threadId: thread || undefined,
      isolationLevel: level,
      after: keepsLog ? "0-0" : undefined,
      token: (why) => this.#access.token(person, why),
    });
    this.#chat = chat;
    // A client that was replaced may still speak for a moment.
    const on = (type, act) => chat.on(type, (event, context) => chat === this.#chat && act(event, context));
    on("*", (frame) => this.#frames.add(frame));
    on("state", (change) => this.#showState(change));
    for (const type of ["event", "user_message", "user_input", "stop_requested", "input_required"]) on(type, (event, context) => this.#take(event, context));
    on("agent_delta", (event, { text }) => this.#conversation.write(event, text) && this.#redraw());
    on("resync", ({ payload }) => this.#timeline.notice(RESYNC_WORDS[payload.reason] ?? "Some events may be missing here."));
    on("draining", () => this.#timeline.notice("The server is about to restart. This page will come back by itself."));
    on("error", ({ ref, payload }) => !ref && this.#timeline.notice(payload.message ?? payload.code, "bad"));
    chat.connect();
    this.#redraw();
  }

  #take(event, { origin }) {
    const resumed = origin === "resumed";
    if (resumed) this.#resumedEvents += 1;
    if (event.type === "user_message") this.#noteThread(event);
    if (origin === "local") {
      this.#conversation.ask(event.payload.message_id, event.payload.content);
      return this.#redraw(true);
    }
    this.#conversation.apply(event, resumed);
    this.#redraw();
  }

  #noteThread({ thread_id: thread, payload, timestamp }) {
    const content = asText(payload.content?.text ?? payload.content, 0);
    if (this.#threads.note(thread, content, timestamp ? Date.parse(timestamp) : Date.now())) this.#showThreads();
  }

  #showState({ state, previous, code, reason, retryInMs, offline }) {
    const { pill, drop, dropWord, dropRest, send } = this.#part;
    if (state === "live" && !this.#threadsAsked) this.#fetchThreads(this.#threads); // by now the token is known to be good
    const seconds = Math.round((retryInMs ?? 0) / 1000);
    pill.dataset.state = state;
    setText(pill, offline ? "Offline" : state === "waiting" && seconds > 1 ? `Reconnecting in ${seconds} s` : STATE_WORDS[state]);
    const away = state === "idle" || state === "stopped";
    drop.dataset.act = away ? "return" : "drop";
    setText(dropWord, away ? "Come back" : "Drop");
    dropRest.hidden = away;
    drop.setAttribute("aria-label", away ? "Come back" : "Drop connection");
    send.dataset.waiting = String(state !== "live");
    if (state === "idle") this.#timeline.notice("You dropped the connection. Runs go on without you.");
    if (state === "stopped") this.#stopped(code, reason);
    if (state === "live") this.#backOrHere();
    const lost = previous === "live" && state !== "live";
    if (lost) this.#awaySince = Date.now();
    if (lost && this.#part.mode.value === "legacy") this.#conversation.loseTrack();
    this.#redraw();
  }

  #backOrHere() {
    const count = this.#resumedEvents;
    if (count > 0 || (this.#wasLive && Date.now() - this.#awaySince > SHORT_ABSENCE_MS)) {
      const came = this.#part.mode.value === "legacy" ? "What happened meanwhile cannot be shown in this mode."
        : count === 0 ? "Nothing happened meanwhile."
        : count === 1 ? "One event came meanwhile." : `${count} events came meanwhile.`;
      this.#timeline.notice(`You are back. ${came}`, "good");
    }
    this.#wasLive = true;
    this.#resumedEvents = 0;
  }

  #stopped(code, reason) {
    const words = CLOSED_WORDS[code] ?? (reason ? `The connection was closed: ${reason}.` : "The connection was closed.");
    if (code === 4401 || code === undefined) this.#leave(words);
    else this.#timeline.notice(words, "bad");
  }

  // ---- what the viewer does

  #wire() {
    const part = this.#part;
    part.tokenForm.addEventListener("submit", (event) => {
      event.preventDefault();
      const token = part.tokenField.value.trim();
      part.tokenField.value = "";
      this.#memory.write({ token });
      this.#enter(this.#access.personOf(token));
    });
    part.logout.addEventListener("click", () => this.#leave());
    part.drop.addEventListener("click", () =>
      part.drop.dataset.act === "return" ? this.#chat.connect() : this.#chat.disconnect());
    part.scopeForm.addEventListener("submit", (event) => event.preventDefault());
    part.scopeForm.addEventListener("change", ({ target }) => target !== part.agent && this.#changeScope());
    part.newThread.addEventListener("click", () => this.#goToThread(`chat-${newId().slice(0, 6)}`));
    part.composer.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    part.question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#ask();
    });
    part.question.addEventListener("input", () => this.#fitQuestion());
    part.stream.addEventListener("scroll", () => { part.jump.hidden = this.#atEnd(); }, { passive: true });
    part.jump.addEventListener("click", () => this.#follow());
    part.samples.replaceChildren(...this.#access.samples.map(({ title, content }) =>
      element("button", { class: "chip", type: "button", text: title, title: content, onclick: () => this.#propose(content) })));
    part.agent.replaceChildren(...this.#access.agents.map((agent) => element("option", { value: agent, text: agent })));
    part.agentField.hidden = this.#access.agents.length < 2;
  }

  #propose(content) {
    this.#part.question.value = content;
    this.#fitQuestion();
    this.#part.question.focus();
  }

  #fitQuestion() {
    const { question } = this.#part;
    question.style.height = "auto";
    question.style.height = `${question.scrollHeight}px`;
  }

  async #ask() {
    const { question, agent } = this.#part;
    const content = question.value.trim();
    if (content === "") return;
    question.value = "";
    this.#fitQuestion();
    const id = newId();
    const [chat, conversation] = [this.#chat, this.#conversation];
    try {
      const { run_id: runId } = await chat.send(content, { id, agent: agent.value || undefined });
      conversation.accept(id, runId);
    } catch (error) {
      conversation.refuse(id, `Not accepted: ${error.message}`);
      // Its conversation is not shown any more.
      if (chat !== this.#chat) this.#timeline.notice(`Your question may not have been sent: ${content}`, "bad");
    }
    this.#redraw();
  }

  /** Whether it worked; what did not is told. */
  async #act(promise, otherwise) {
    try {
      await promise;
      return true;
    } catch (error) {
      otherwise?.();
      if (this.#chat?.state !== "closed") this.#timeline.notice(`That did not work: ${error.message}`, "bad");
      return false;
    }
  }

  #stopFailed(runId) {
    const run = this.#conversation.runs.get(runId);
    if (!run) return;
    run.stopping = false;
    run.version += 1;
    this.#redraw();
  }

  #scope() {
    const { mode, level, thread } = this.#part;
    const threaded = mode.value === "main" || mode.value === "factory";
    return { mode: mode.value, level: level.value, thread: threaded ? thread.value.trim() : "" };
  }

  #goToThread(id) {
    const { thread, threads, question } = this.#part;
    if (id === thread.value) return;
    thread.value = id;
    if (this.root.clientWidth < WIDE_PANE_PX) threads.open = false; // it covers the conversation there
    this.#changeScope();
    question.focus({ preventScroll: true });
  }

  #showThreads() {
    const { threadList, threadName } = this.#part;
    const { thread } = this.#scope();
    const { all } = this.#threads;
    drawThreads(threadList, all, thread, (id) => this.#goToThread(id));
    setText(threadName, all.find(({ id }) => id === thread)?.title ?? "");
  }

  #changeScope() {
    this.#memory.write({ mode: this.#part.mode.value, level: this.#part.level.value, thread: this.#part.thread.value.trim() });
    this.#openChat();
  }

  #describeScope() {
    const { mode, level, thread } = this.#scope();
    const part = this.#part;
    part.levelField.hidden = mode !== "factory";
    part.threadField.hidden = part.threads.hidden = mode !== "main" && mode !== "factory";
    this.#showThreads();
    part.thread.placeholder = mode === "factory" ? "a new thread" : "all threads";
    const hint = SCOPE_HINTS[mode === "factory" ? level : mode];
    setText(part.scopeHint, hint(this.#person.name, thread));
    const words = [mode, mode === "factory" && level, thread].filter(Boolean).join(" · ");
    setText(part.scopeSummary, words[0].toUpperCase() + words.slice(1));
  }

  // ---- drawing, at most once a frame

  #redraw(follow = false) {
    this.#followNext ||= follow;
    if (this.#awaited) return;
    this.#awaited = true;
    requestAnimationFrame(() => {
      this.#awaited = false;
      const following = this.#followNext || this.#atEnd();
      this.#followNext = false;
      this.#timeline.update(this.#conversation);
      this.#part.empty.hidden = this.#conversation.entries.length > 0;
      if (following) this.#follow();
    });
  }

  #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#part.stream;
    return scrollHeight - scrollTop - clientHeight < FOLLOW_WITHIN_PX;
  }

  #follow() {
    const { stream, jump } = this.#part;
    stream.scrollTop = stream.scrollHeight;
    jump.hidden = true;
  }
}

function initial({ name, id }) {
  return (name || id).slice(0, 1).toUpperCase();
}
