/** What is chosen in the form: a model, its version, a series, how far ahead. */

import { readCsv } from "./csv.js";
import { byId, fillSelect } from "./dom.js";
import { EXAMPLE, exampleCsv } from "./example.js";

export const NO_EXAMPLE = "This version has no example: an earlier release trained it.";

let models = [];
// the example whose rows were put into the form
let taken = null;

/** Fill the form with what the service has. */
export function offer(served, storedSeries) {
  models = served;
  fillSelect(byId("model"), models.map(({ name }) => [name, name]));
  fillSelect(byId("stored"), storedSeries.map((name) => [name, name]));
  byId("from-store").disabled = storedSeries.length === 0;
  offerVersions();
}

/** Offer the chosen model's versions, and what goes with the one that is chosen. */
export function offerVersions() {
  const model = chosenModel();
  // an example is of one model
  if (byId("csv").value === taken?.text) byId("csv").value = "";
  const byAlias = Object.entries(model.aliases).map(([alias, version]) => [`alias ${alias}`, `${alias} (version ${version})`]);
  const byNumber = Object.keys(model.versions).map((version) => [`version ${version}`, `version ${version}`]);
  fillSelect(byId("version"), [...byAlias.sort(), ...byNumber.reverse()]);
  const { sessions, freq } = chosenManifest();
  const isDaily = sessions !== null || freq === "B" || freq === "D";
  const fromStore = isDaily && !byId("from-store").disabled;
  byId(fromStore ? "from-store" : "from-text").checked = true;
  describe();
}

/** Say what the chosen version needs, and show the part of the form that is meant. */
export function describe() {
  const manifest = chosenManifest();
  const { input_size: inputSize, horizon, max_horizon: maxHorizon, freq, cell, topology } = manifest;
  byId("needs").textContent =
    `${cell}, ${topology.replaceAll("_", "-")}: ${horizon} steps of ${freq} from the last ${inputSize} rows.`;
  const columns = ["ds", "y", ...Object.keys(manifest.hist_exog), ...Object.keys(manifest.futr_exog)];
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
export function takeExample(example) {
  taken = { text: exampleCsv(example), actual: example.actual };
  byId("csv").value = taken.text;
  byId("name").value = EXAMPLE;
}

/** Put the rows of an example into the form where it wants rows and has none. */
export function offerExample(example) {
  if (!isFromStore() && byId("csv").value === "") takeExample(example);
}

/** Return the actuals after the rows in the form, where these are an example's; an empty list otherwise. */
export function knownActuals() {
  return !isFromStore() && taken?.text === byId("csv").value ? taken.actual : [];
}

/** Choose a series by its name: the stored one where there is one, else one of pasted rows. */
export function chooseSeries(name) {
  const isStored = isStoredSeries(name);
  byId(isStored ? "from-store" : "from-text").checked = true;
  byId(isStored ? "stored" : "name").value = name;
  describe();
}

/** Say whether a series is stored. */
export function isStoredSeries(name) {
  return [...byId("stored").options].some(({ value }) => value === name);
}

/** Say whether the series is one of the stored ones. */
export function isFromStore() {
  return byId("from-store").checked;
}

/** Return the name of the series that is meant. */
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

/** Return the request that the form stands for. */
export function asRequest() {
  const [kind, name] = chosenVersion();
  const horizon = byId("horizon").value;
  return {
    model: chosenModel().name,
    [kind]: kind === "alias" ? name : Number(name),
    level: [80, 95],
    ...(horizon ? { horizon: Number(horizon) } : {}),
    ...(isFromStore() ? { unique_ids: [chosenSeries()] } : { series: [typedSeries()] }),
  };
}

function typedSeries() {
  if (!byId("name").value) throw new Error("the series has no name; give it one");
  return readCsv(byId("csv").value, byId("name").value, chosenManifest());
}

function chosenVersion() {
  const [kind, ...name] = byId("version").value.split(" ");
  return [kind, name.join(" ")];
}
