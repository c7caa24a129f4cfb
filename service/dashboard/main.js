/** The page: handles the form's events and shows the results. */

import { get } from "./api.js";
import { loadPlotly } from "./chart.js";
import * as choices from "./choices.js";
import { byId } from "./dom.js";
import { showDrift } from "./drift.js";
import { readExample } from "./example.js";
import {
  drawCurrent, requestForecast, showExample, showForecast, showHistory, showNothing, showServed, storedHistory,
} from "./forecast.js";
import { setUpForgetButton } from "./key.js";
import { attempt, showProblem, showStatus } from "./notices.js";
import { findOpening } from "./opening.js";
import { showPast } from "./past.js";
import { showRealised } from "./realised.js";
import { showVersions } from "./versions.js";

let mlflowUrl = "";
// the number of the latest action: the results of earlier actions are discarded
let latestAction = 0;

async function start() {
  const [{ models }, { series }, settings] = await Promise.all([
    get("v1/models"),
    get("v1/series"),
    get("v1/dashboard-settings"),
  ]);
  mlflowUrl = settings.mlflow_url;
  if (models.length === 0) throw new Error("no model is served yet; train and promote one, then reload this page");
  choices.fillForm(models, series);
  listen();
  byId("forecast").disabled = false;
  onModel();
}

function listen() {
  byId("model").addEventListener("change", () => {
    choices.fillVersions();
    onModel();
  });
  byId("version").addEventListener("change", choices.updateForm);
  for (const id of ["from-store", "from-text"]) {
    byId(id).addEventListener("change", () => {
      choices.updateForm();
      onSeries();
    });
  }
  for (const id of ["stored", "name"]) byId(id).addEventListener("change", () => onSeries());
  for (const id of ["csv", "name", "horizon"]) byId(id).addEventListener("input", abandonOpening);
  byId("example").addEventListener("click", onExample);
  byId("shown").addEventListener("change", () => attempt("chart", () => drawCurrent()));
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    onForecast();
  });
}

function onModel() {
  showVersions(choices.chosenModel(), mlflowUrl);
  attempt("realised", () => showRealised(choices.chosenModel().name));
  attempt("drift", () => showDrift(choices.chosenModel().name));
  attempt("history", openModel);
}

/** Show the model's newest served forecast, else its example, else the history of a stored series. */
async function openModel() {
  const action = begin();
  const result = byId("result");
  result.setAttribute("aria-busy", "true");
  try {
    await showOpening(action);
  } finally {
    if (action === latestAction) result.setAttribute("aria-busy", "false");
  }
}

/** Keep what a person types: a model that is still being opened would replace it. */
function abandonOpening() {
  if (byId("result").getAttribute("aria-busy") === "true") onSeries();
}

async function showOpening(action) {
  const { name } = choices.chosenModel();
  const [number, manifest] = [choices.chosenNumber(), choices.chosenManifest()];
  const readStored = (series) => (choices.isStoredSeries(series) ? storedHistory(series) : null);
  const { served, history, example } = await findOpening({ name, number, hasExample: manifest.has_example }, readStored);
  if (action !== latestAction) return;
  if (!served && !example) {
    const why = `${choices.NO_EXAMPLE} Choose a series and press Forecast.`;
    showNothing(why);
    onSeries(why);
    return;
  }
  if (served) choices.chooseSeries(served.forecast.unique_id);
  else choices.fillExampleIfEmpty(example);
  attempt("past", () => showPast(name, choices.chosenSeries()));
  await (served ? showServed(served, history) : showExample(example));
}

/** Begin an action and return its number; its result is shown unless another action begins first. */
function begin() {
  latestAction += 1;
  byId("result").setAttribute("aria-busy", "false");
  showProblem("forecast", null);
  showStatus("");
  return latestAction;
}

function onSeries(note = "Press Forecast to request a forecast.") {
  const action = begin();
  attempt("past", () => showPast(choices.chosenModel().name, choices.chosenSeries()));
  if (!choices.isFromStore()) return;
  const name = choices.chosenSeries();
  attempt("history", async () => {
    const history = await storedHistory(name);
    if (action === latestAction) await showHistory(name, history, note);
  });
}

async function onExample() {
  await attempt("forecast", async () => {
    const action = begin();
    const example = await readExample(choices.chosenModel().name, choices.chosenNumber());
    if (action !== latestAction) return;
    choices.fillExample(example);
    attempt("past", () => showPast(choices.chosenModel().name, choices.chosenSeries()));
    await showExample(example);
  });
}

async function onForecast() {
  const action = begin();
  showStatus("Waiting for the service…");
  const actual = choices.knownActuals();
  const answered = await attempt("forecast", () => requestForecast(choices.buildRequest()));
  if (action !== latestAction) return;
  showStatus(answered ? `Forecast of ${answered.answer.forecasts[0].ds.length} steps.` : "");
  if (answered === null) return;
  attempt("chart", () => showForecast({ ...answered, actual }));
  const result = byId("result");
  if (result.getBoundingClientRect().top > innerHeight / 2) result.scrollIntoView();
  attempt("past", () => showPast(answered.answer.model.name, answered.answer.forecasts[0].unique_id));
  attempt("drift", () => showDrift(answered.answer.model.name));
}

byId("forecast").disabled = true;
setUpForgetButton();
attempt("chart", loadPlotly);
attempt("start", start);
