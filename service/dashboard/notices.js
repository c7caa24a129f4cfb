/** Messages: each subject's current problem, and the status of a request. */

import { byId, element } from "./dom.js";

const problems = new Map();

/** Show the problem of a subject; null removes it. */
export function showProblem(subject, error) {
  if (error === null) problems.delete(subject);
  else problems.set(subject, error.message);
  const texts = new Set(problems.values());
  byId("problems").replaceChildren(...[...texts].map((text) => element("p", {}, capitalize(text))));
}

/** Show the status of a request. */
export function showStatus(text) {
  byId("status").textContent = text;
}

/** Return a text with its first letter capitalized. */
export function capitalize(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Run a task; if it fails, show the error as the subject's problem and return null. */
export async function attempt(subject, task) {
  try {
    const result = await task();
    showProblem(subject, null);
    return result;
  } catch (error) {
    showProblem(subject, error);
    return null;
  }
}
