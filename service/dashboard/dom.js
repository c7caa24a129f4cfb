/** Elements, made of text and never of HTML: a name from outside can be nothing but characters. */

/** Return the element of that id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Return a new element with attributes and children, which are elements or text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** Fill a select with `[value, text]` options, keeping what was chosen where it is still there. */
export function fillSelect(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (options.some(([value]) => value === before)) select.value = before;
  select.disabled = options.length === 0;
}
