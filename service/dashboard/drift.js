/** Drift: the distance between the inputs of requests and the training data, by version and input. */

import { get } from "./api.js";
import { byId } from "./dom.js";
import { count, short } from "./format.js";
import { table } from "./table.js";

const STABLE = 0.1;
const SHIFTED = 0.25;
const NAMES = { values: "values of y", changes: "changes of y" };
const COLUMNS = [
  { title: "Version", cell: ({ version }) => version, isText: true },
  { title: "Input", cell: ({ input }) => NAMES[input] ?? input, isText: true },
  { title: "Values received", cell: ({ values }) => count(values) },
  { title: "PSI", cell: ({ psi }) => short(psi) },
  { title: "Drift", cell: ({ psi }) => driftLabel(psi), isText: true },
];
let lastRequest = 0;

/** Show the drift of a model's inputs. */
export async function showDrift(model) {
  lastRequest += 1;
  const request = lastRequest;
  const { versions } = await get("v1/drift", { model });
  // another model has been chosen in the meantime
  if (request !== lastRequest) return;
  const rows = versions.flatMap(({ version, n_values: values, drift }) =>
    Object.entries(drift).map(([input, { psi }]) => ({ version, input, values, psi })),
  );
  byId("drift-note").hidden = rows.length > 0;
  byId("drift-table").replaceChildren(...(rows.length ? [table(`Inputs of ${model}`, COLUMNS, rows)] : []));
}

function driftLabel(psi) {
  if (psi < STABLE) return "stable";
  return psi > SHIFTED ? "shifted: inputs differ from the training data" : "moderate";
}
