/** The service's API: every failure becomes an error whose message is for people. */

import { askForKey, currentKey } from "./key.js";

/** Return what a GET answers; entries of `query` that are null are left out. */
export function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null);
  const search = new URLSearchParams(given).toString();
  return request(search ? `${path}?${search}` : path, {});
}

/** Return what a POST of `body` as JSON answers. */
export function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", body: JSON.stringify(body), headers });
}

async function request(path, options) {
  for (;;) {
    const key = currentKey();
    const answer = await reach(path, options, key);
    if (answer.status !== 401) return read(answer);
    // while this was under way another request may have been given a key
    if (key === currentKey()) await askForKey(key ? "The service does not accept that key." : "");
  }
}

async function reach(path, options, key) {
  const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
  try {
    return await fetch(path, { ...options, headers });
  } catch {
    throw new Error("the service cannot be reached; check that it is running");
  }
}

async function read(answer) {
  const content = await answer.json().catch(() => null);
  if (answer.ok && content !== null) return content;
  throw new Error(content?.detail ?? `the service answered ${answer.status} ${answer.statusText}`);
}
