/** Requests to the service's API. Every failure becomes an error with a message for the user. */

import { askForKey, currentKey } from "./key.js";

/** Send a GET request and return the decoded response; null entries of `query` are left out. */
export function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null);
  const search = new URLSearchParams(given).toString();
  return request(search ? `${path}?${search}` : path, {});
}

/** Send `body` as JSON in a POST request and return the decoded response. */
export function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", body: JSON.stringify(body), headers });
}

async function request(path, options) {
  for (;;) {
    const key = currentKey();
    const response = await send(path, options, key);
    if (response.status !== 401) return decode(response);
    // another request may have got a key in the meantime
    if (key === currentKey()) await askForKey(key ? "The service does not accept that key." : "");
  }
}

async function send(path, options, key) {
  const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
  try {
    return await fetch(path, { ...options, headers });
  } catch {
    throw new Error("the service cannot be reached; check that it is running");
  }
}

async function decode(response) {
  const content = await response.json().catch(() => null);
  if (response.ok && content !== null) return content;
  throw new Error(content?.detail ?? `the service answered ${response.status} ${response.statusText}`);
}
