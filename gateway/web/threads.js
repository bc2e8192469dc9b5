/** The threads of one person that this browser knows, newest first: remembered for all its tabs, and drawn as a list. */

import { element, setText } from "./dom.js";

const KEPT = 50;
const TITLE_LENGTH = 60;

/** @typedef {{id: string, title: string, at: number}} Thread */

export class Threads {
  /** @param {string} person @param {() => void} changed  Called when another tab has changed it. */
  constructor(person, changed) {
    this.key = `runcast.threads.${person}`;
    this.listen = (event) => event.key === this.key && changed();
    addEventListener("storage", this.listen);
  }

  /** @returns {Thread[]} */
  get all() {
    try {
      return JSON.parse(localStorage.getItem(this.key) ?? "[]");
    } catch {
      return [];
    }
  }

  /** Something was written in a thread; its first words, where they are known, name it. Gives whether that is news. */
  note(id, content, at) {
    const { all } = this;
    const known = all.find((thread) => thread.id === id);
    if (!id || (known?.at >= at && known.title)) return false;
    const title = known?.title || content.trim().split("\n")[0].slice(0, TITLE_LENGTH);
    const others = all.filter((thread) => thread !== known);
    this.#write([{ id, title, at: Math.max(at, known?.at ?? 0) }, ...others].sort((one, other) => other.at - one.at).slice(0, KEPT));
    return true;
  }

  /** For who leaves a machine that is not theirs. */
  forget() {
    this.#write([]);
  }

  close() {
    removeEventListener("storage", this.listen);
  }

  #write(threads) {
    try {
      localStorage.setItem(this.key, JSON.stringify(threads));
    } catch {
      // Then the list is as long as the page knows it from elsewhere: the thread that is open.
    }
  }
}

/** A day's threads by time, older ones by date. */
function when(at) {
  const date = new Date(at);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], today ? { hour: "2-digit", minute: "2-digit", hour12: false } : { day: "numeric", month: "short" });
}

/**
 * Draw the list; the thread that is open is in it, whether anything has been written there or not.
 * @param {HTMLElement} place @param {Thread[]} threads @param {string} open @param {(id: string) => void} choose
 */
export function drawThreads(place, threads, open, choose) {
  const shown = threads.some(({ id }) => id === open) || !open ? threads : [{ id: open, title: "", at: 0 }, ...threads];
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.thread : null;
  place.replaceChildren(...shown.map(({ id, title, at }) => {
    const name = element("span", { class: "thread-title" });
    setText(name, title || (at ? id : "Empty thread"));
    return element("li", {}, element("button", {
      class: "thread", type: "button", title: `Thread ${id}`, data: { thread: id }, "aria-current": id === open && "true", onclick: () => choose(id),
    }, name, at > 0 && element("span", { class: "time", text: when(at) })));
  }));
  if (focused) place.querySelector(`[data-thread="${CSS.escape(focused)}"]`)?.focus();
}
