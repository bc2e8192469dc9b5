/** The frames of one connection as they are on the wire, for developers. Drawn only while it is open. */

import { element, setText } from "./dom.js";

const KEPT = 300;
const SECRETS = new Set(["token", "secret"]);

/** Tokens and secrets stay out of what may be copied or shown around. */
function readable(frame) {
  return JSON.stringify(frame, (name, value) => (SECRETS.has(name) && typeof value === "string" ? "•••" : value), 2);
}

export class FrameList {
  #frames = []; // oldest first
  #count = 0;
  #part;

  constructor(part) {
    this.#part = part;
    part.frames.addEventListener("toggle", () => this.#redraw());
    part.clearFrames.addEventListener("click", () => this.clear());
  }

  /** @param {{direction: "in" | "out", frame: any}} frame */
  add({ direction, frame }) {
    const kept = { direction, frame, at: new Date() };
    this.#frames.push(kept);
    this.#count += 1;
    if (this.#frames.length > KEPT) this.#frames.shift();
    this.#showCount();
    if (!this.#part.frames.open) return;
    this.#part.frameList.prepend(frameView(kept));
    if (this.#part.frameList.childElementCount > KEPT) this.#part.frameList.lastElementChild.remove();
  }

  clear() {
    this.#frames = [];
    this.#count = 0;
    this.#showCount();
    this.#redraw();
  }

  #showCount() {
    setText(this.#part.frameCount, String(this.#count));
  }

  #redraw() {
    const shown = this.#part.frames.open ? this.#frames.map(frameView).reverse() : [];
    this.#part.frameList.replaceChildren(...shown);
  }
}

function frameView({ direction, frame, at }) {
  const body = element("pre", { class: "value" });
  const details = element("details", {
    class: "frame",
    data: { direction, type: frame.type ?? "?" },
    ontoggle: () => { if (details.open) setText(body, readable(frame)); },
  },
  element("summary", {},
    element("span", { class: "frame-arrow", text: direction === "in" ? "↓" : "↑", "aria-label": direction === "in" ? "received" : "sent", role: "img" }),
    element("code", { text: frame.type ?? "?" }),
    element("span", { class: "time", text: at.toLocaleTimeString([], { hour12: false }) })),
  body);
  return element("li", {}, details);
}
