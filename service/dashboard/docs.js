/** The API's page: Swagger UI on this service's own description of its API. */

import { currentKey } from "./key.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");

function followScheme() {
  document.documentElement.classList.toggle("dark-mode", DARK.matches);
}

/** Add the API key that the dashboard was given in this tab. */
function withKey(request) {
  const key = currentKey();
  if (key) request.headers.Authorization = `Bearer ${key}`;
  return request;
}

DARK.addEventListener("change", followScheme);
followScheme();
window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  // it would ask another host
  validatorUrl: null,
  requestInterceptor: withKey,
});
