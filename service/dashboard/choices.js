/** The form: the chosen model, version, series and horizon. */

import { readCsv } from "./csv.js";
import { byId, fillSelect } from "./dom.js";
import { EXAMPLE, exampleCsv } from "./example.js";
import { LEVELS } from "./levels.js";

export const NO_EXAMPLE = "This version has no example: an earlier release trained it.";

let models = [];
// the example whose rows were last put into the form
let usedExample = null;

/** Fill the form with the served models and the stored series. */
export function fillForm(served, storedSeries) {
  models = served;
  fillSelect(byId("model"), models.map(({ name }) => [name, name]));
  fillSelect(byId("stored"), storedSeries.map((name) => [name, name]));
  byId("from-store").disabled = storedSeries.length === 0;
  fillVersions();
}

/** Fill the list of versions of the chosen model, and update the rest of the form. */
export function fillVersions() {
  const model = chosenModel();
  // the example belongs to another model
  if (byId("csv").value === usedExample?.text) byId("csv").value = "";
  const byAlias = Object.entries(model.aliases).map(([alias, version]) => [`alias ${alias}`, `${alias} (version ${version})`]);
  const byNumber = Object.keys(model.versions).map((version) => [`version ${version}`, `version ${version}`]);
  fillSelect(byId("version"), [...byAlias.sort(), ...byNumber.reverse()]);
  const { sessions, freq } = chosenManifest();
  const isDaily = sessions !== null || freq === "B" || freq === "D";
  const fromStore = isDaily && !byId("from-store").disabled;
  byId(fromStore ? "from-store" : "from-text").checked = true;
  updateForm();
}

/** Describe the inputs of the chosen version, and show the fields for the chosen source. */
export function updateForm() {
  const manifest = chosenManifest();
  const { input_size: inputSize, horizon, max_horizon: maxHorizon, freq, cell, topology } = manifest;
  byId("needs").textContent =
    `${cell}, ${topology.replaceAll("_", "-")}: ${horizon} steps of ${freq} from the last ${inputSize} rows.`;
  const { hist_exog: hist, futr_exog: futr, stat_exog: stat } = manifest;
  const columns = ["ds", "y", ...[hist, futr, stat].flatMap(Object.keys)];
  byId("csv-hint").textContent = `${columns.join(",")}: at least ${inputSize} rows, one step of ${freq} apart.`;
  byId("horizon").value = horizon;
  byId("horizon").max = maxHorizon;
  byId("store-part").hidden = !isFromStore();
  byId("text-part").hidden = isFromStore();
  byId("example").disabled = !manifest.has_example;
  byId("example-note").textContent = manifest.has_example
    ? "The last window of the test part, from the data this version was trained with."
    : NO_EXAMPLE;
}

/** Put the rows of an example into the form. */
export function fillExample(example) {
  usedExample = { text: exampleCsv(example), actual: example.actual };
  byId("csv").value = usedExample.text;
  byId("name").value = EXAMPLE;
}

/** Put the rows of an example into the form if pasted rows are chosen and there are none. */
export function fillExampleIfEmpty(example) {
  if (!isFromStore() && byId("csv").value === "") fillExample(example);
}

/** Return the actuals of the example if its rows are in the form; an empty list otherwise. */
export function knownActuals() {
  return !isFromStore() && usedExample?.text === byId("csv").value ? usedExample.actual : [];
}

/** Choose a series by name: the stored series if it exists, else pasted rows. */
export function chooseSeries(name) {
  const isStored = isStoredSeries(name);
  byId(isStored ? "from-store" : "from-text").checked = true;
  byId(isStored ? "stored" : "name").value = name;
  updateForm();
}

/** Return whether a series is stored. */
export function isStoredSeries(name) {
  return [...byId("stored").options].some(({ value }) => value === name);
}

/** Return whether a stored series is chosen. */
export function isFromStore() {
  return byId("from-store").checked;
}

/** Return the name of the chosen series. */
export function chosenSeries() {
  return isFromStore() ? byId("stored").value : byId("name").value;
}

/** Return the chosen model. */
export function chosenModel() {
  return models.find(({ name }) => name === byId("model").value);
}

/** Return the number of the chosen version. */
export function chosenNumber() {
  const [kind, name] = chosenVersion();
  return kind === "alias" ? chosenModel().aliases[name] : Number(name);
}

/** Return the chosen version's manifest. */
export function chosenManifest() {
  return chosenModel().versions[chosenNumber()];
}

/** Return the request for the form's choices. */
export function buildRequest() {
  const [kind, name] = chosenVersion();
  const horizon = byId("horizon").value;
  return {
    model: chosenModel().name,
    [kind]: kind === "alias" ? name : Number(name),
    level: LEVELS,
    ...(horizon ? { horizon: Number(horizon) } : {}),
    ...(isFromStore() ? { unique_ids: [chosenSeries()] } : { series: [pastedSeries()] }),
  };
}

function pastedSeries() {
  if (!byId("name").value) throw new Error("the series has no name; give it one");
  return readCsv(byId("csv").value, byId("name").value, chosenManifest());
}

function chosenVersion() {
  const [kind, ...name] = byId("version").value.split(" ");
  return [kind, name.join(" ")];
}
