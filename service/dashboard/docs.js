/** The API page: Swagger UI with this service's OpenAPI document. */

import { currentKey } from "./key.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");

function followScheme() {
  document.documentElement.classList.toggle("dark-mode", DARK.matches);
}

/** Add the API key that was entered on the dashboard in this tab. */
function addKey(request) {
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
  // the validator would send requests to another host
  validatorUrl: null,
  requestInterceptor: addKey,
});
