/** The page: what is chosen in the form decides what is shown beside it. */

import { get } from "./api.js";
import { loadPlotly } from "./chart.js";
import * as choices from "./choices.js";
import { byId } from "./dom.js";
import { showDrift } from "./drift.js";
import { readExample } from "./example.js";
import {
  askFor, drawCurrent, showExample, showForecast, showHistory, showNothing, showServed, storedHistory,
} from "./forecast.js";
import { offerToForget } from "./key.js";
import { attempt, complain, tell } from "./notices.js";
import { findOpening } from "./opening.js";
import { showPast } from "./past.js";
import { showRealised } from "./realised.js";
import { showVersions } from "./versions.js";

let mlflowUrl = "";
// of two answers, only the one to the later request is shown
let turn = 0;

async function start() {
  const [{ models }, { series }, settings] = await Promise.all([
    get("v1/models"),
    get("v1/series"),
    get("v1/dashboard-settings"),
  ]);
  mlflowUrl = settings.mlflow_url;
  if (models.length === 0) throw new Error("no model is served yet; train and promote one, then reload this page");
  choices.offer(models, series);
  listen();
  byId("forecast").disabled = false;
  onModel();
}

function listen() {
  byId("model").addEventListener("change", () => {
    choices.offerVersions();
    onModel();
  });
  byId("version").addEventListener("change", choices.describe);
  for (const id of ["from-store", "from-text"]) {
    byId(id).addEventListener("change", () => {
      choices.describe();
      onSeries();
    });
  }
  for (const id of ["stored", "name"]) byId(id).addEventListener("change", () => onSeries());
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

/** Show the newest forecast that was served of the model, else its example, else the history of a stored series. */
async function openModel() {
  const mine = begin();
  const result = byId("result");
  result.setAttribute("aria-busy", "true");
  try {
    await showOpening(mine);
  } finally {
    if (mine === turn) result.setAttribute("aria-busy", "false");
  }
}

async function showOpening(mine) {
  const { name } = choices.chosenModel();
  const [number, manifest] = [choices.chosenNumber(), choices.chosenManifest()];
  const readStored = (series) => (choices.isStoredSeries(series) ? storedHistory(series) : null);
  const { served, history, example } = await findOpening({ name, number, hasExample: manifest.has_example }, readStored);
  if (mine !== turn) return;
  if (!served && !example) {
    const why = `${choices.NO_EXAMPLE} Choose a series and press Forecast.`;
    showNothing(why);
    onSeries(why);
    return;
  }
  if (served) choices.chooseSeries(served.forecast.unique_id);
  else choices.offerExample(example);
  attempt("past", () => showPast(name, choices.chosenSeries()));
  await (served ? showServed(served, history) : showExample(example));
}

/** Begin something whose result is shown unless something else begins before; return its number. */
function begin() {
  turn += 1;
  byId("result").setAttribute("aria-busy", "false");
  complain("forecast", null);
  tell("");
  return turn;
}

function onSeries(note = "Press Forecast to request a forecast.") {
  const mine = begin();
  attempt("past", () => showPast(choices.chosenModel().name, choices.chosenSeries()));
  if (!choices.isFromStore()) return;
  const name = choices.chosenSeries();
  attempt("history", async () => {
    const history = await storedHistory(name);
    if (mine === turn) await showHistory(name, history, note);
  });
}

async function onExample() {
  await attempt("forecast", async () => {
    const mine = begin();
    const example = await readExample(choices.chosenModel().name, choices.chosenNumber());
    if (mine !== turn) return;
    choices.takeExample(example);
    attempt("past", () => showPast(choices.chosenModel().name, choices.chosenSeries()));
    await showExample(example);
  });
}

async function onForecast() {
  const mine = begin();
  tell("Waiting for the service…");
  const actual = choices.knownActuals();
  const answered = await attempt("forecast", () => askFor(choices.asRequest()));
  if (mine !== turn) return;
  tell(answered ? `Forecast of ${answered.answer.forecasts[0].ds.length} steps.` : "");
  if (answered === null) return;
  attempt("chart", () => showForecast({ ...answered, actual }));
  const result = byId("result");
  if (result.getBoundingClientRect().top > innerHeight / 2) result.scrollIntoView();
  attempt("past", () => showPast(answered.answer.model.name, answered.answer.forecasts[0].unique_id));
  attempt("drift", () => showDrift(answered.answer.model.name));
}

byId("forecast").disabled = true;
offerToForget();
attempt("chart", loadPlotly);
attempt("start", start);
