/** The forecast: what is known of the series, what the service answers, and what that is worth. */

import { get, post } from "./api.js";
import { draw } from "./chart.js";
import { byId, element } from "./dom.js";
import { alike, isMidnight, number, time } from "./format.js";
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

/** Show a history that nothing has been asked of yet. */
export function showHistory(name, history) {
  current = { history, forecast: null, isBaseline: false };
  byId("result-title").textContent = name;
  byId("result-by").textContent = "Not forecast yet.";
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

/** Show an answer after its history. */
export function showForecast({ answer, history }) {
  const [one] = answer.forecasts;
  current = { history, forecast: one, isBaseline: answer.forecast_by !== "model" };
  byId("result-title").textContent = one.unique_id;
  byId("result-by").textContent = `${maker(answer)} What is known ends at ${time(one.cutoff)}.`;
  byId("warnings").replaceChildren(...answer.warnings.map(warning));
  const { text, figures } = skillWords(answer.skill);
  byId("evidence").replaceChildren(element("p", {}, text), facts(figures));
  byId("forecast-table").replaceChildren(asTable(one));
  return drawCurrent(describe(one));
}

/** Draw what is current, with as much history as is chosen. */
export function drawCurrent(words = byId("forecast-chart").getAttribute("aria-label")) {
  if (current === null) return null;
  const { history, forecast: one, isBaseline } = current;
  const rows = byId("shown").value;
  byId("chart-note").textContent = history.bars ? "Hollow bars rose, filled ones fell; prices are adjusted." : "";
  return draw(byId("forecast-chart"), fan(rows === "all" ? history : lastOf(history, Number(rows)), one, isBaseline), words);
}

function describe(one) {
  const bounds = one["lo-80"]?.at(-1);
  const sure = typeof bounds === "number" ? `, 80 % interval ${number(bounds)} to ${number(one["hi-80"].at(-1))}` : "";
  return (
    `Chart of ${one.unique_id}: history, and ${one.ds.length} steps of forecast, ` +
    `from ${number(one.mean[0])} to ${number(one.mean.at(-1))}${sure}. The table below has each step.`
  );
}

function warning(text) {
  if (!text.startsWith(NO_SKILL)) return element("p", { class: "warning" }, `${sentence(text)}.`);
  const rest = text.slice(NO_SKILL.length).replace(/^: /, "");
  return element("p", { class: "warning strong" }, element("strong", {}, sentence(NO_SKILL)), ` ${sentence(rest)}.`);
}

function asTable(one) {
  const names = LEVELS.flatMap((level) => [`lo-${level}`, `hi-${level}`]);
  const titles = LEVELS.flatMap((level) => [`${level} % from`, `${level} % to`]);
  const write = alike(["mean", ...names].flatMap((name) => one[name] ?? []));
  const isDay = one.ds.every(isMidnight);
  const columns = [
    { title: "Time", cell: (step) => time(one.ds[step], isDay), isText: true },
    { title: "Forecast", cell: (step) => write(one.mean[step]) },
    ...names.map((name, place) => ({ title: titles[place], cell: (step) => write(one[name]?.[step]) })),
  ];
  return table("The forecast, step by step", columns, [...one.ds.keys()]);
}

function lastOf({ ds, y, bars }, rows) {
  const cut = (values) => values.slice(-rows);
  const cutBars = bars && Object.fromEntries(Object.entries(bars).map(([name, values]) => [name, cut(values)]));
  return { ds: cut(ds), y: cut(y), bars: cutBars };
}
