/** Tables that change in place: a row stays the same element, so that focus and selection stay too. */

import { element, setText } from "./dom.js";

/**
 * @typedef {object} Column
 * @property {string} title
 * @property {(row: any) => string} [text]
 * @property {(row: any) => string | undefined} [tone]  good, bad, warn: shown as a tag.
 * @property {"number" | "id"} [kind]
 * @property {(current: () => any) => HTMLElement[]} [controls]  Made once for a row; `current` gives what it shows now.
 * @property {(row: any) => boolean} [allowed]  Whether the last of the controls can be used.
 */

export class Table {
  #rows = new Map(); // key → {node, cells, row}
  #columns;
  #key;
  #body = element("tbody", { role: "rowgroup" });
  #table;
  #empty;

  /** @param {HTMLElement} place @param {{label: string, key: (row: any) => string, columns: Column[], empty: string}} options */
  constructor(place, { label, key, columns, empty }) {
    this.#columns = columns;
    this.#key = key;
    const head = columns.map(({ title, kind, controls }) =>
      element("th", { scope: "col", role: "columnheader", data: { kind: kind ?? "" } }, controls && !kind ? element("span", { class: "unseen", text: title }) : title));
    // On phones rows are blocks, which takes from a table what it is: the roles say it again.
    this.#table = element("table", { role: "table", "aria-label": label, hidden: true },
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...head)), this.#body);
    this.#empty = element("p", { class: "soft empty-text", text: "Loading …", data: { then: empty } });
    place.append(this.#empty, this.#table);
  }

  /** @param {any[]} rows  In their order. */
  update(rows) {
    const keys = rows.map(this.#key);
    for (const [key, { node }] of this.#rows) {
      if (!keys.includes(key)) {
        node.remove();
        this.#rows.delete(key);
      }
    }
    rows.forEach((row, index) => {
      const shown = this.#rows.get(keys[index]) ?? this.#make(keys[index], row);
      shown.row = row;
      this.#show(shown);
      if (this.#body.children[index] !== shown.node) this.#body.insertBefore(shown.node, this.#body.children[index] ?? null);
    });
    this.#table.hidden = !rows.length;
    this.#empty.hidden = rows.length > 0;
    setText(this.#empty, this.#empty.dataset.then);
  }

  #make(key, row) {
    const shown = { row, cells: [], node: element("tr", { role: "row", data: { key } }) };
    for (const { title, kind, controls, tone } of this.#columns) {
      const content = controls ? element("span", { class: "controls" }, ...controls(() => shown.row)) : element("span", { class: tone ? "tag" : "" });
      shown.cells.push(content);
      shown.node.append(element("td", { role: "cell", data: { title: controls ? "" : title, kind: kind ?? "" } }, content));
    }
    this.#rows.set(key, shown);
    return shown;
  }

  #show({ row, cells, node }) {
    this.#columns.forEach(({ text, tone, allowed }, index) => {
      if (allowed) cells[index].lastElementChild.hidden = !allowed(row);
      if (text) setText(cells[index], text(row));
      if (tone) cells[index].dataset.tone = tone(row) ?? "";
    });
    if (row.dim !== undefined) node.dataset.dim = String(row.dim);
  }
}
