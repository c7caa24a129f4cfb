/** The forecast: the history of the series, what the service answers, its actuals, and the skill of the version. */

import { get, post } from "./api.js";
import { draw, wipe } from "./chart.js";
import { byId, element } from "./dom.js";
import { alike, instant, isMidnight, number, time } from "./format.js";
import { sentence } from "./notices.js";
import { facts, table } from "./table.js";
import { fan } from "./traces.js";
import { maker, NO_SKILL, skillWords } from "./words.js";

const LEVELS = [80, 95];
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

/** Return the service's answer to a request of one series, and the history that it had. */
export async function askFor(request) {
  const [sent] = request.series ?? [];
  const [answer, history] = await Promise.all([
    post("v1/forecasts", request),
    sent ? { ds: sent.ds, y: sent.y } : storedHistory(request.unique_ids[0]),
  ]);
  return { answer, history };
}

/** Show an answer after its history, and the actuals that are known of it. */
export function showForecast({ answer, history, actual = [] }) {
  const [one] = answer.forecasts;
  current = { history, forecast: one, actual, isBaseline: answer.forecast_by !== "model" };
  return show(one.unique_id, `${maker(answer)} Cutoff: ${time(one.cutoff)}.`, answer.warnings, answer.skill);
}

/** Show a forecast of the ledger, after its history where that is stored. */
export function showServed({ forecast, actual, ...answer }, history) {
  current = { history: upTo(history, forecast.cutoff), forecast, actual, isBaseline: answer.forecast_by !== "model" };
  const by = `${maker(answer)} Served ${instant(answer.answered_at)}. Cutoff: ${time(forecast.cutoff)}.`;
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

/** Say that there is nothing to show yet, and why. */
export function showNothing(why) {
  current = null;
  byId("result-title").textContent = "Forecast";
  byId("result-by").textContent = why;
  for (const id of ["warnings", "evidence", "forecast-table"]) byId(id).replaceChildren();
  wipe(byId("forecast-chart"));
}

function show(title, by, warnings, skill) {
  byId("result-title").textContent = title;
  byId("result-by").textContent = by;
  byId("warnings").replaceChildren(...warnings.map(warning));
  const { text, figures } = skillWords(skill);
  byId("evidence").replaceChildren(element("p", {}, text), facts(figures));
  byId("forecast-table").replaceChildren(asTable(current));
  return drawCurrent(describe(title, current));
}

/** Draw what is current, with as much history as is chosen. */
export function drawCurrent(words = byId("forecast-chart").getAttribute("aria-label")) {
  if (current === null) return null;
  const { history, forecast, actual, isBaseline } = current;
  const rows = byId("shown").value;
  byId("chart-note").textContent = note(history);
  const shown = rows === "all" ? history : lastOf(history, Number(rows));
  return draw(byId("forecast-chart"), fan(shown, forecast, actual, isBaseline), words);
}

function note({ ds, bars }) {
  if (ds.length === 0) return "The ledger keeps the forecast, but not the history that was sent with its request.";
  return bars ? "Hollow bars rose, filled bars fell. Prices are adjusted." : "";
}

function describe(title, { forecast: one, actual }) {
  const bounds = one["lo-80"]?.at(-1);
  const sure = typeof bounds === "number" ? `, 80 % interval ${number(bounds)} to ${number(one["hi-80"].at(-1))}` : "";
  return (
    `Chart of ${title}: history, and ${one.ds.length} steps of forecast, ` +
    `from ${number(one.mean[0])} to ${number(one.mean.at(-1))}${sure}` +
    `${actual.some((value) => value !== null) ? ", with actuals" : ""}. The table below has each step.`
  );
}

function warning(text) {
  if (!text.startsWith(NO_SKILL)) return element("p", { class: "warning" }, `${sentence(text)}.`);
  const rest = text.slice(NO_SKILL.length).replace(/^: /, "");
  return element("p", { class: "warning strong" }, element("strong", {}, sentence(NO_SKILL)), ` ${sentence(rest)}.`);
}

function asTable({ forecast: one, actual }) {
  const names = LEVELS.flatMap((level) => [`lo-${level}`, `hi-${level}`]);
  const titles = LEVELS.flatMap((level) => [`${level} % from`, `${level} % to`]);
  const write = alike([...actual, ...["mean", ...names].flatMap((name) => one[name] ?? [])]);
  const isDay = one.ds.every(isMidnight);
  const columns = [
    { title: "Time", cell: (step) => time(one.ds[step], isDay), isText: true },
    { title: "Forecast", cell: (step) => write(one.mean[step]) },
    ...names.map((name, place) => ({ title: titles[place], cell: (step) => write(one[name]?.[step]) })),
    ...(actual.length ? [{ title: "Actual", cell: (step) => write(actual[step]) }] : []),
  ];
  return table("The forecast, step by step", columns, [...one.ds.keys()]);
}

/** Return a history up to a time; times of one series sort as texts. */
function upTo(history, cutoff) {
  return lastOf(history, Infinity, history.ds.filter((ds) => ds <= cutoff).length);
}

function lastOf({ ds, y, bars }, rows, end = ds.length) {
  const cut = (values) => values.slice(Math.max(end - rows, 0), end);
  const cutBars = bars && Object.fromEntries(Object.entries(bars).map(([name, values]) => [name, cut(values)]));
  return { ds: cut(ds), y: cut(y), bars: cutBars };
}
