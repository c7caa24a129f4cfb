/** What is said aloud: problems, each under its subject until it is gone, and how a request goes. */

import { byId, element } from "./dom.js";

const problems = new Map();

/** Say a problem of a subject, or with null that it is gone. */
export function complain(subject, error) {
  if (error === null) problems.delete(subject);
  else problems.set(subject, error.message);
  const texts = new Set(problems.values());
  byId("problems").replaceChildren(...[...texts].map((text) => element("p", {}, sentence(text))));
}

/** Say how a request goes. */
export function tell(text) {
  byId("status").textContent = text;
}

/** Return a text that begins with a capital. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Do a subject's work; what goes wrong is said under it, and null returned. */
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
