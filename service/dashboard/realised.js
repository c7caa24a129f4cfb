/** A model's realised skill: its error relative to the last value's, and the coverage of its intervals. */

import { get } from "./api.js";
import { clearChart, draw } from "./chart.js";
import { byId, element } from "./dom.js";
import { count, percent, ratio, short } from "./format.js";
import { LEVELS } from "./levels.js";
import { facts, table } from "./table.js";

let lastRequest = 0;

/** Show a model's realised skill. */
export async function showRealised(model) {
  lastRequest += 1;
  const request = lastRequest;
  const read = async (by) => (await get("v1/skill", { model, by })).realised;
  const [[whole], days, steps, versions] = await Promise.all([null, "day", "step", "version"].map(read));
  // another model has been chosen in the meantime
  if (request !== lastRequest) return;
  byId("realised-figures").hidden = !whole;
  byId("realised-note").textContent = whole
    ? `${count(whole.n_scores)} steps of ${model} have actuals, over all series. Forecasts by a baseline are not counted.`
    : `No forecast of ${model} has actuals yet. Send actuals to POST /v1/actuals.`;
  byId("realised-facts").replaceChildren(...(whole ? [facts(figures(whole))] : []));
  const tables = [groupTable("By version", "Version", versions), groupTable("By step ahead", "Step", steps)];
  byId("realised-tables").replaceChildren(
    ...(whole ? [...tables, collapsed(groupTable("By day", "Day", days))] : []),
  );
  const [errors, coverage] = [byId("error-chart"), byId("coverage-chart")];
  if (!whole) [errors, coverage].forEach(clearChart);
  else await Promise.all([drawErrors(errors, days), drawCoverage(coverage, days)]);
}

function figures({ relative_mae: relative, bias, coverage }) {
  return [
    ["Relative MAE", ratio(relative), "MAE divided by the last value’s; below 1 is better"],
    ["Bias", short(bias), "mean of forecast minus actual"],
    ...LEVELS.map((level) => [`${level} % coverage`, percent(coverage[level]), "actuals in the interval"]),
  ];
}

function groupTable(caption, title, rows) {
  const columns = [
    { title, cell: ({ group }) => group, isText: true },
    { title: "Scored steps", cell: ({ n_scores: scores }) => count(scores) },
    { title: "Relative MAE", cell: ({ relative_mae: relative }) => ratio(relative) },
    { title: "MAE", cell: ({ mae }) => short(mae) },
    { title: "Bias", cell: ({ bias }) => short(bias) },
    ...LEVELS.map((level) => ({ title: `${level} % coverage`, cell: ({ coverage }) => percent(coverage[level]) })),
  ];
  return table(caption, columns, rows);
}

function collapsed(days) {
  return element("details", {}, element("summary", {}, "The charts as a table, by day"), days);
}

function drawErrors(place, days) {
  const build = ({ accent, muted }) => ({
    traces: [series("Relative MAE", days, (day) => day.relative_mae, accent)],
    layout: { showlegend: false, yaxis: { rangemode: "tozero" }, shapes: [level(1, muted)] },
  });
  const better = days.filter((day) => day.relative_mae !== null && day.relative_mae < 1).length;
  return draw(place, build, `Better than the last value on ${better} of ${days.length} days. The table by day has each.`);
}

function drawCoverage(place, days) {
  const build = ({ accent, second }) => ({
    traces: LEVELS.map((nominal, position) =>
      series(`${nominal} % interval`, days, (day) => 100 * (day.coverage[nominal] ?? NaN), [accent, second][position]),
    ),
    layout: {
      yaxis: { range: [0, 104], ticksuffix: " %" },
      shapes: LEVELS.map((nominal, position) => level(nominal, [accent, second][position])),
    },
  });
  return draw(place, build, "Coverage of each interval by day; dotted lines are the nominal levels. The table by day has each.");
}

function series(name, days, value, color) {
  const x = days.map(({ group }) => group);
  return { type: "scatter", mode: "lines+markers", name, x, y: days.map(value), line: { color, width: 2 }, marker: { size: 5 } };
}

function level(y, color) {
  return { type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color, width: 1.2, dash: "dot" } };
}
