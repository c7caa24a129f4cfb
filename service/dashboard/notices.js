/** Messages: problems, each under its subject until it is solved, and the state of a request. */

import { byId, element } from "./dom.js";

const problems = new Map();

/** Show a problem of a subject; null removes it. */
export function complain(subject, error) {
  if (error === null) problems.delete(subject);
  else problems.set(subject, error.message);
  const texts = new Set(problems.values());
  byId("problems").replaceChildren(...[...texts].map((text) => element("p", {}, sentence(text))));
}

/** Show the state of a request. */
export function tell(text) {
  byId("status").textContent = text;
}

/** Return a text that begins with a capital. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Do a subject's work; an error is shown under the subject, and null returned. */
export async function attempt(subject, work) {
  try {
    const done = await work();
    complain(subject, null);
    return done;
  } catch (error) {
    complain(subject, error);
    return null;
  }
}
