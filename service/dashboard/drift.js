/** How far what a model is asked with has moved from what it was trained on. */

import { get } from "./api.js";
import { byId } from "./dom.js";
import { count, short } from "./format.js";
import { table } from "./table.js";

const STABLE = 0.1;
const SHIFTED = 0.25;
let asked = 0;

/** Show the drift of a model's inputs, by version. */
export async function showDrift(model) {
  asked += 1;
  const turn = asked;
  const { versions } = await get("v1/drift", { model });
  // another model has been chosen meanwhile
  if (turn !== asked) return;
  const columns = [
    { title: "Version", cell: ({ version }) => version, isText: true },
    { title: "Values asked with", cell: ({ n_values: values }) => count(values) },
    { title: "Drift of values", cell: ({ drift }) => short(drift.values.psi) },
    { title: "of their changes", cell: ({ drift }) => short(drift.changes.psi) },
    ...featuresOf(versions).map((name) => ({ title: `of ${name}`, cell: ({ drift }) => short(drift[name]?.psi) })),
    { title: "", cell: ({ drift }) => inWords(Math.max(...Object.values(drift).map(({ psi }) => psi))), isText: true },
  ];
  byId("drift-note").hidden = versions.length > 0;
  byId("drift-table").replaceChildren(...(versions.length ? [table(`Inputs of ${model}`, columns, versions)] : []));
}

function featuresOf(versions) {
  const names = new Set(versions.flatMap(({ drift }) => Object.keys(drift)));
  return [...names].filter((name) => name !== "values" && name !== "changes");
}

function inWords(psi) {
  if (psi < STABLE) return "as in training";
  return psi > SHIFTED ? "shifted: the model was trained on other values" : "somewhat shifted";
}
