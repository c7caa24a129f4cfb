/** Tables with a caption, which scroll by themselves if they are too wide or too long. */

import { element } from "./dom.js";

/**
 * Return a table.
 *
 * `columns` are `{title, cell, isText}`. `cell(row)` returns a text or an element. The first column has the row headers.
 */
export function table(caption, columns, rows) {
  const headers = columns.map(({ title, isText }) => element("th", { scope: "col", class: isText ? "text" : "" }, title));
  const body = rows.map((row) => element("tr", {}, ...columns.map((column, position) => cell(column, position, row))));
  const result = element(
    "table",
    {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...headers)),
    element("tbody", {}, ...body),
  );
  // only a focusable element can be scrolled with the keyboard
  return element("div", { class: "scroll", role: "group", "aria-label": caption, tabindex: "0" }, result);
}

function cell({ cell: content, isText }, position, row) {
  const kind = isText ? "text" : "";
  return position === 0
    ? element("th", { scope: "row", class: kind }, content(row))
    : element("td", { class: kind }, content(row));
}

/** Return a list of `[name, value, note]` figures, shown side by side. */
export function facts(figures) {
  const result = figures.map(([name, value, note]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value, note ? element("small", {}, note) : "")),
  );
  return element("dl", { class: "facts" }, ...result);
}
