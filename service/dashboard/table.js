/** Tables, with a caption, that scroll within themselves where they are too wide or too long. */

import { element } from "./dom.js";

/**
 * Return a table.
 *
 * `columns` are `{title, cell, isText}`: `cell(row)` gives a text or an element; the first column heads its row.
 */
export function table(caption, columns, rows) {
  const heads = columns.map(({ title, isText }) => element("th", { scope: "col", class: isText ? "text" : "" }, title));
  const body = rows.map((row) => element("tr", {}, ...columns.map((column, place) => cell(column, place, row))));
  const made = element(
    "table",
    {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...body),
  );
  // to be scrolled with the keyboard it must take the focus
  return element("div", { class: "scroll", role: "group", "aria-label": caption, tabindex: "0" }, made);
}

function cell({ cell: content, isText }, place, row) {
  const kind = isText ? "text" : "";
  return place === 0
    ? element("th", { scope: "row", class: kind }, content(row))
    : element("td", { class: kind }, content(row));
}

/** Return figures with their names, side by side. */
export function facts(pairs) {
  const made = pairs.map(([name, value, note]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value, note ? element("small", {}, note) : "")),
  );
  return element("dl", { class: "facts" }, ...made);
}
