/** The page: what is chosen in the form decides what is shown beside it. */

import { get } from "./api.js";
import { loadPlotly } from "./chart.js";
import * as choices from "./choices.js";
import { byId } from "./dom.js";
import { showDrift } from "./drift.js";
import { askFor, drawCurrent, showForecast, showHistory, storedHistory } from "./forecast.js";
import { offerToForget } from "./key.js";
import { attempt, complain, tell } from "./notices.js";
import { showPast } from "./past.js";
import { showRealised } from "./realised.js";
import { showVersions } from "./versions.js";

let mlflowUrl = "";
// of two answers, the one to the later question is shown
let turn = 0;

async function start() {
  const [{ models }, { series }, settings] = await Promise.all([
    get("v1/models"),
    get("v1/series"),
    get("v1/dashboard-settings"),
  ]);
  mlflowUrl = settings.mlflow_url;
  if (models.length === 0) throw new Error("no model is served yet; train one and promote it, then load this page again");
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
  for (const id of ["stored", "name"]) byId(id).addEventListener("change", onSeries);
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
  onSeries();
}

function onSeries() {
  turn += 1;
  const mine = turn;
  complain("forecast", null);
  tell("");
  attempt("past", () => showPast(choices.chosenModel().name, choices.chosenSeries()));
  if (!choices.isFromStore()) return;
  const name = choices.chosenSeries();
  attempt("history", async () => {
    const history = await storedHistory(name);
    if (mine === turn) await showHistory(name, history);
  });
}

async function onExample() {
  await attempt("forecast", async () => {
    const stored = byId("stored").value;
    const isCalendar = choices.chosenManifest().sessions !== null;
    choices.takeExample(isCalendar && stored ? (await storedHistory(stored)).ds : null);
    onSeries();
  });
}

async function onForecast() {
  turn += 1;
  const mine = turn;
  tell("Asking the service…");
  const answered = await attempt("forecast", () => askFor(choices.asRequest()));
  if (mine !== turn) return;
  tell(answered ? `Forecast of ${answered.answer.forecasts[0].ds.length} steps.` : "");
  if (answered === null) return;
  attempt("chart", () => showForecast(answered));
  const result = byId("result");
  if (result.getBoundingClientRect().top > innerHeight / 2) result.scrollIntoView();
  attempt("past", () => showPast(answered.answer.model.name, answered.answer.forecasts[0].unique_id));
  attempt("drift", () => showDrift(answered.answer.model.name));
}

byId("forecast").disabled = true;
offerToForget();
attempt("chart", loadPlotly);
attempt("start", start);
