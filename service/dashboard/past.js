/** The last forecasts of a series from the ledger, with their actuals. */

import { get } from "./api.js";
import { clearChart, draw } from "./chart.js";
import { byId } from "./dom.js";
import { instant, short, time } from "./format.js";
import { table } from "./table.js";
import { closedDays } from "./traces.js";

const MAX_FORECASTS = 20;
// more markers would hide the line
const MAX_MARKERS = 80;
const COLUMNS = [
  { title: "Served", cell: (entry) => instant(entry.answered_at), isText: true },
  { title: "Cutoff", cell: (entry) => time(entry.forecast.cutoff), isText: true },
  { title: "By", cell: madeBy, isText: true },
  { title: "Actuals", cell: (entry) => `${scored(entry).length} of ${entry.actual.length}` },
  { title: "MAE", cell: (entry) => short(meanError(entry)) },
  { title: "In 80 % interval", cell: (entry) => nInside(entry, 80) },
  { title: "In 95 % interval", cell: (entry) => nInside(entry, 95) },
];
let lastRequest = 0;

/** Show a model's last forecasts of a series from the ledger. */
export async function showPast(model, uniqueId) {
  lastRequest += 1;
  const request = lastRequest;
  const query = { model, unique_id: uniqueId, limit: MAX_FORECASTS };
  const forecasts = uniqueId ? (await get("v1/forecasts", query)).forecasts : [];
  // another series has been chosen in the meantime
  if (request !== lastRequest) return;
  byId("past-note").textContent = note(forecasts, model, uniqueId);
  byId("past-figure").hidden = forecasts.length === 0;
  if (forecasts.length === 0) {
    byId("past-table").replaceChildren();
    clearChart(byId("past-chart"));
    return;
  }
  byId("past-table").replaceChildren(table(`Last forecasts of ${uniqueId}`, COLUMNS, forecasts));
  await draw(byId("past-chart"), chart(forecasts), `${byId("past-note").textContent} The table below has the errors.`);
}

function note(forecasts, model, uniqueId) {
  if (!uniqueId) return "The series has no name yet.";
  if (forecasts.length === 0) return `There are no forecasts of ${uniqueId} by ${model} yet.`;
  const known = forecasts.filter((entry) => scored(entry).length > 0).length;
  const times = forecasts.length === 1 ? "The only forecast" : `The last ${forecasts.length} forecasts`;
  return `${times} of ${uniqueId} by ${model}; ${known || "none"} of them with actuals.`;
}

function chart(forecasts) {
  const pairs = (entry) => scored(entry).map((step) => [entry.forecast.ds[step], entry.actual[step]]);
  const actual = new Map(forecasts.flatMap(pairs));
  const times = [...actual.keys()].sort();
  const all = new Set([...times, ...forecasts.flatMap((entry) => entry.forecast.ds)]);
  return ({ accent, ink }) => ({
    traces: [actualTrace(times, actual, ink), ...forecasts.map((entry, place) => forecastTrace(entry, place === 0, accent))],
    layout: { xaxis: { rangebreaks: closedDays([...all]) } },
  });
}

function actualTrace(x, actual, color) {
  return {
    type: "scatter",
    mode: x.length > MAX_MARKERS ? "lines" : "lines+markers",
    name: "Actuals",
    x,
    y: x.map((ds) => actual.get(ds)),
    line: { color, width: 1.3 },
    marker: { size: 5 },
  };
}

function forecastTrace({ forecast, is_shadow: isShadow }, isFirst, color) {
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

function madeBy({ model, forecast_by: by, is_shadow: isShadow }) {
  const version = `version ${model.version}`;
  if (by !== "model") return `${by} baseline for ${version}`;
  return isShadow ? `${version}, shadow` : version;
}

function meanError(entry) {
  const errors = scored(entry).map((step) => Math.abs(entry.forecast.mean[step] - entry.actual[step]));
  return errors.length ? errors.reduce((sum, error) => sum + error, 0) / errors.length : null;
}

function nInside(entry, level) {
  const [low, high] = [entry.forecast[`lo-${level}`], entry.forecast[`hi-${level}`]];
  const steps = low ? scored(entry).filter((step) => low[step] !== null) : [];
  if (steps.length === 0) return "–";
  const inside = steps.filter((step) => low[step] <= entry.actual[step] && entry.actual[step] <= high[step]);
  return `${inside.length} of ${steps.length}`;
}
