/** The forecast with the history of its series, its actuals and the skill of the version. */

import { get, post } from "./api.js";
import { clearChart, draw } from "./chart.js";
import { byId, element } from "./dom.js";
import { instant, isMidnight, number, sameDecimals, time } from "./format.js";
import { LEVELS } from "./levels.js";
import { capitalize } from "./notices.js";
import { facts, table } from "./table.js";
import { forecastChart } from "./traces.js";
import { describeSkill, madeBy, NO_SKILL } from "./words.js";

let current = null;

/** Return a stored series as a history. */
export async function storedHistory(name) {
  const { ds, close, open, high, low } = await get(`v1/series/${encodeURIComponent(name)}`);
  return { ds, y: close, bars: { open, high, low, close } };
}

/** Show a history without a forecast. */
export function showHistory(name, history, note) {
  current = { history, forecast: null, actual: [], isBaseline: false };
  byId("result-title").textContent = name;
  byId("result-by").textContent = note;
  for (const id of ["warnings", "evidence", "forecast-table"]) byId(id).replaceChildren();
  return drawCurrent(`History of ${name}, ${history.ds.length} rows.`);
}

/** Request a forecast of one series; return the answer and the history that it was made from. */
export async function requestForecast(request) {
  const [sent] = request.series ?? [];
  const [answer, history] = await Promise.all([
    post("v1/forecasts", request),
    sent ? { ds: sent.ds, y: sent.y } : storedHistory(request.unique_ids[0]),
  ]);
  return { answer, history };
}

/** Show an answer with its history and the known actuals. */
export function showForecast({ answer, history, actual = [] }) {
  const [forecast] = answer.forecasts;
  current = { history, forecast, actual, isBaseline: answer.forecast_by !== "model" };
  return show(forecast.unique_id, `${madeBy(answer)} Cutoff: ${time(forecast.cutoff)}.`, answer.warnings, answer.skill);
}

/** Show a forecast from the ledger, with its history if that is stored. */
export function showServed({ forecast, actual, ...answer }, history) {
  current = { history: upTo(history, forecast.cutoff), forecast, actual, isBaseline: answer.forecast_by !== "model" };
  const by = `${madeBy(answer)} Served ${instant(answer.answered_at)}. Cutoff: ${time(forecast.cutoff)}.`;
  return show(forecast.unique_id, by, answer.warnings, answer.skill);
}

/** Show an example of a model's version. */
export function showExample({ model, version, series, forecast, actual, is_fitted_on: isFittedOn, warnings, skill }) {
  current = { history: { ds: series.ds, y: series.y }, forecast, actual, isBaseline: false };
  const title = `Example: ${series.unique_id}`;
  const by =
    `By the network evaluated for ${model}, version ${version}, which had not seen these rows.` +
    `${isFittedOn ? " The served weights were fitted on them afterwards." : ""} Cutoff: ${time(forecast.cutoff)}.`;
  return show(title, by, warnings, skill);
}

/** Show that there is no forecast yet, and why. */
export function showNothing(why) {
  current = null;
  byId("result-title").textContent = "Forecast";
  byId("result-by").textContent = why;
  for (const id of ["warnings", "evidence", "forecast-table"]) byId(id).replaceChildren();
  clearChart(byId("forecast-chart"));
}

function show(title, by, warnings, skill) {
  byId("result-title").textContent = title;
  byId("result-by").textContent = by;
  byId("warnings").replaceChildren(...warnings.map(warning));
  const { text, figures } = describeSkill(skill);
  byId("evidence").replaceChildren(element("p", {}, text), facts(figures));
  byId("forecast-table").replaceChildren(forecastTable(current));
  return drawCurrent(describe(title, current));
}

/** Draw the current forecast with the chosen number of history rows. */
export function drawCurrent(label = byId("forecast-chart").getAttribute("aria-label")) {
  if (current === null) return null;
  const { history, forecast, actual, isBaseline } = current;
  const rows = byId("shown").value;
  byId("chart-note").textContent = note(history);
  const shown = rows === "all" ? history : lastOf(history, Number(rows));
  return draw(byId("forecast-chart"), forecastChart(shown, forecast, actual, isBaseline), label);
}

function note({ ds, bars }) {
  if (ds.length === 0) return "The ledger keeps the forecast, but not the history that was sent with its request.";
  return bars ? "Hollow bars rose, filled bars fell. Prices are adjusted." : "";
}

function describe(title, { forecast, actual }) {
  const bounds = forecast["lo-80"]?.at(-1);
  const interval =
    typeof bounds === "number" ? `, 80 % interval ${number(bounds)} to ${number(forecast["hi-80"].at(-1))}` : "";
  return (
    `Chart of ${title}: history, and ${forecast.ds.length} steps of forecast, ` +
    `from ${number(forecast.mean[0])} to ${number(forecast.mean.at(-1))}${interval}` +
    `${actual.some((value) => value !== null) ? ", with actuals" : ""}. The table below has each step.`
  );
}

function warning(text) {
  if (!text.startsWith(NO_SKILL)) return element("p", { class: "warning" }, `${capitalize(text)}.`);
  const rest = text.slice(NO_SKILL.length).replace(/^: /, "");
  return element("p", { class: "warning strong" }, element("strong", {}, capitalize(NO_SKILL)), ` ${capitalize(rest)}.`);
}

function forecastTable({ forecast, actual }) {
  const names = LEVELS.flatMap((level) => [`lo-${level}`, `hi-${level}`]);
  const titles = LEVELS.flatMap((level) => [`${level} % from`, `${level} % to`]);
  const format = sameDecimals([...actual, ...["mean", ...names].flatMap((name) => forecast[name] ?? [])]);
  const isDay = forecast.ds.every(isMidnight);
  const columns = [
    { title: "Time", cell: (step) => time(forecast.ds[step], isDay), isText: true },
    { title: "Forecast", cell: (step) => format(forecast.mean[step]) },
    ...names.map((name, place) => ({ title: titles[place], cell: (step) => format(forecast[name]?.[step]) })),
    ...(actual.length ? [{ title: "Actual", cell: (step) => format(actual[step]) }] : []),
  ];
  return table("The forecast, step by step", columns, [...forecast.ds.keys()]);
}

/** Return a history up to a time; the timestamps of a series sort as strings. */
function upTo(history, cutoff) {
  return lastOf(history, Infinity, history.ds.filter((ds) => ds <= cutoff).length);
}

function lastOf({ ds, y, bars }, rows, end = ds.length) {
  const slice = (values) => values.slice(Math.max(end - rows, 0), end);
  const cutBars = bars && Object.fromEntries(Object.entries(bars).map(([name, values]) => [name, slice(values)]));
  return { ds: slice(ds), y: slice(y), bars: cutBars };
}
