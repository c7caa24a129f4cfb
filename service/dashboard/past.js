/** A series' last forecasts, from the ledger, beside the actuals. */

import { get } from "./api.js";
import { draw, wipe } from "./chart.js";
import { byId } from "./dom.js";
import { instant, short, time } from "./format.js";
import { table } from "./table.js";
import { closedDays } from "./traces.js";

const MOST = 20;
// more points than these hide the line that they are on
const MOST_MARKED = 80;
const COLUMNS = [
  { title: "Served", cell: (one) => instant(one.answered_at), isText: true },
  { title: "Cutoff", cell: (one) => time(one.forecast.cutoff), isText: true },
  { title: "By", cell: by, isText: true },
  { title: "Actuals", cell: (one) => `${scored(one).length} of ${one.actual.length}` },
  { title: "MAE", cell: (one) => short(meanError(one)) },
  { title: "In 80 % interval", cell: (one) => inside(one, 80) },
  { title: "In 95 % interval", cell: (one) => inside(one, 95) },
];
let asked = 0;

/** Show what the ledger has of a model's forecasts of a series. */
export async function showPast(model, uniqueId) {
  asked += 1;
  const turn = asked;
  const found = uniqueId ? (await get("v1/forecasts", { model, unique_id: uniqueId, limit: MOST })).forecasts : [];
  // another series has been chosen meanwhile
  if (turn !== asked) return;
  byId("past-note").textContent = note(found, model, uniqueId);
  byId("past-figure").hidden = found.length === 0;
  if (found.length === 0) {
    byId("past-table").replaceChildren();
    wipe(byId("past-chart"));
    return;
  }
  byId("past-table").replaceChildren(table(`Last forecasts of ${uniqueId}`, COLUMNS, found));
  await draw(byId("past-chart"), chart(found), `${byId("past-note").textContent} The table below has the errors.`);
}

function note(found, model, uniqueId) {
  if (!uniqueId) return "The series has no name yet.";
  if (found.length === 0) return `There are no forecasts of ${uniqueId} by ${model} yet.`;
  const known = found.filter((one) => scored(one).length > 0).length;
  const times = found.length === 1 ? "The only forecast" : `The last ${found.length} forecasts`;
  return `${times} of ${uniqueId} by ${model}; ${known || "none"} of them with actuals.`;
}

function chart(found) {
  const actual = new Map(found.flatMap((one) => scored(one).map((step) => [one.forecast.ds[step], one.actual[step]])));
  const times = [...actual.keys()].sort();
  const all = new Set([...times, ...found.flatMap((one) => one.forecast.ds)]);
  return ({ accent, ink }) => ({
    traces: [truth(times, actual, ink), ...found.map((one, place) => predicted(one, place === 0, accent))],
    layout: { xaxis: { rangebreaks: closedDays([...all]) } },
  });
}

function truth(x, actual, color) {
  return {
    type: "scatter",
    mode: x.length > MOST_MARKED ? "lines" : "lines+markers",
    name: "Actuals",
    x,
    y: x.map((ds) => actual.get(ds)),
    line: { color, width: 1.3 },
    marker: { size: 5 },
  };
}

function predicted({ forecast, is_shadow: isShadow }, isFirst, color) {
  return {
    type: "scatter",
    mode: forecast.ds.length > 1 ? "lines" : "markers",
    name: "Forecasts",
    legendgroup: "forecasts",
    showlegend: isFirst,
    x: forecast.ds,
    y: forecast.mean,
    opacity: 0.75,
    line: { color, width: 2, dash: isShadow ? "dot" : "solid" },
    hoverinfo: "skip",
  };
}

function scored({ actual }) {
  return [...actual.keys()].filter((step) => actual[step] !== null);
}

function by({ model, forecast_by: who, is_shadow: isShadow }) {
  const version = `version ${model.version}`;
  if (who !== "model") return `${who} baseline for ${version}`;
  return isShadow ? `${version}, shadow` : version;
}

function meanError(one) {
  const errors = scored(one).map((step) => Math.abs(one.forecast.mean[step] - one.actual[step]));
  return errors.length ? errors.reduce((sum, error) => sum + error, 0) / errors.length : null;
}

function inside(one, level) {
  const [low, high] = [one.forecast[`lo-${level}`], one.forecast[`hi-${level}`]];
  const steps = low ? scored(one).filter((step) => low[step] !== null) : [];
  if (steps.length === 0) return "–";
  return `${steps.filter((step) => low[step] <= one.actual[step] && one.actual[step] <= high[step]).length} of ${steps.length}`;
}
