/** A live line chart in SVG: a quarter of an hour, axes with units, a legend that has the latest values. */

import { element } from "./dom.js";
import { brief } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const SPAN_SECONDS = 900;
const FIRST_SECONDS = 180; // until there is more: else the first minutes are a sliver
const HEIGHT = 190;
const EDGE = { top: 10, right: 10, bottom: 24, left: 46 };
const TICKS = 4;

/** A round number of this size or more: 1, 2 or 5 times a power of ten. @param {number} least */
export function roundUp(least) {
  if (least <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= least * 0.999_999);
}

function draw(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  if (text !== undefined) node.textContent = text;
  return node;
}

/**
 * @typedef {object} Series
 * @property {string} name   In the legend.
 * @property {string} value  Field of a point.
 */

export class Chart {
  #points = [];
  #svg = document.createElementNS(SVG, "svg");
  #latest = new Map();
  #width = 0;

  /** @param {HTMLElement} figure @param {{title: string, unit: string, series: Series[]}} options */
  constructor(figure, { title, unit, series }) {
    this.title = title;
    this.unit = unit;
    this.series = series;
    const legend = series.map(({ name, value }, index) => {
      const latest = element("b", { class: "number" });
      this.#latest.set(value, latest);
      return element("li", {}, this.#swatch(index), element("span", { text: name }), latest);
    });
    this.#svg.setAttribute("role", "img");
    figure.append(
      element("figcaption", {}, element("span", { class: "chart-title", text: title }), element("span", { class: "soft", text: unit })),
      this.#svg,
      element("ul", { class: "legend" }, ...legend));
    new ResizeObserver(() => this.#draw()).observe(figure);
  }

  /** @param {{at: number} & Record<string, number | null>} point  `at`: seconds; null leaves a gap. */
  add(point) {
    this.#points.push(point);
    this.#points = this.#points.filter(({ at }) => at > point.at - SPAN_SECONDS);
    for (const [name, node] of this.#latest) node.textContent = brief(point[name]);
    this.#draw();
  }

  #swatch(index) {
    const svg = draw("svg", { class: "swatch", width: 22, height: 8, "aria-hidden": "true" });
    svg.append(draw("path", { class: `series series-${index}`, d: "M1 4H21" }));
    return svg;
  }

  #draw() {
    const width = Math.floor(this.#svg.parentElement.clientWidth - 2 * parseFloat(getComputedStyle(this.#svg.parentElement).paddingLeft));
    if (width <= 0) return;
    if (width !== this.#width) {
      this.#width = width;
      this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    }
    const points = this.#points;
    const now = points.at(-1)?.at ?? 0;
    const values = points.flatMap((point) => this.series.map(({ value }) => point[value] ?? 0));
    const step = roundUp(Math.max(...values, 0) / TICKS);
    const top = step * Math.max(1, Math.ceil(Math.max(...values, 0) / step));
    const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
    const span = now - (points[0]?.at ?? now) > FIRST_SECONDS ? SPAN_SECONDS : FIRST_SECONDS;
    const x = (at) => EDGE.left + inner.width * (1 - (now - at) / span);
    const y = (value) => EDGE.top + inner.height * (1 - value / top);

    const marks = [];
    for (let value = 0; value <= top * 1.001; value += step) {
      marks.push(draw("path", { class: "grid", d: `M${EDGE.left} ${y(value)}H${width - EDGE.right}` }));
      marks.push(draw("text", { class: "tick", x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, brief(value)));
    }
    for (const minutes of [3, 2, 1, 0].map((part) => part * span / 180)) {
      const anchor = minutes === 0 ? "end" : minutes * 60 === span ? "start" : "middle";
      marks.push(draw("text", { class: "tick", x: x(now - minutes * 60), y: HEIGHT - 6, "text-anchor": anchor }, minutes ? `−${minutes} min` : "now"));
    }
    const lines = this.series.map(({ value }, index) => {
      let path = "", pen = "M";
      for (const point of points) {
        if (point[value] === null || point[value] === undefined) {
          pen = "M";
        } else {
          path += `${pen}${x(point.at).toFixed(1)} ${y(point[value]).toFixed(1)}`;
          pen = "L";
        }
      }
      return draw("path", { class: `series series-${index}`, d: path });
    });
    const newest = points.at(-1);
    const told = newest ? this.series.map(({ name, value }) => `${name} ${brief(newest[value])}`).join(", ") : "no data yet";
    this.#svg.setAttribute("aria-label", `${this.title}, ${this.unit}: ${told}`);
    this.#svg.replaceChildren(...marks, ...lines);
    if (points.length < 2) {
      this.#svg.append(draw("text", { class: "tick", x: EDGE.left + inner.width / 2, y: EDGE.top + inner.height / 2, "text-anchor": "middle" }, "Figures come in a few seconds."));
    }
  }
}
