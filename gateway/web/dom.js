/** The few ways in which the page makes elements. Text only ever becomes text. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} tag
 * @param {Record<string, any>} [attributes]  `text`, `data` (a record) and `on…` handlers have their own meaning; false,
 *   null and undefined leave an attribute out.
 * @param {...(Node | null | undefined | false)} children
 * @returns {HTMLElement}
 */
export function element(tag, { text, data, ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  Object.assign(node.dataset, data);
  if (text !== undefined) node.textContent = text;
  node.append(...children.filter(Boolean));
  return node;
}

/** One of the drawings at the top of the page. @param {string} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Change text only where it differs: a live region announces what is written, changed or not. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A copy of a template of the page and its parts by name. @returns {{root: HTMLElement, part: Record<string, any>}} */
export function stamp(templateId) {
  const root = document.getElementById(templateId).content.firstElementChild.cloneNode(true);
  const part = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
  return { root, part };
}
