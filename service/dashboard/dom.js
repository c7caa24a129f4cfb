/** DOM helpers. Text is never parsed as HTML, so a name in the data cannot inject markup. */

/** Return the element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Return a new element with attributes and children, which are elements or text. */
export function element(tag, attributes = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) created.setAttribute(name, value === true ? "" : value);
  }
  created.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return created;
}

/** Fill a select with `[value, text]` options; keep the selected value if it is still an option. */
export function fillSelect(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (options.some(([value]) => value === before)) select.value = before;
  select.disabled = options.length === 0;
}
