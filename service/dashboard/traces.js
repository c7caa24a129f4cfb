/** Plotly traces of a history, its forecast and its actuals; without text from the data, because Plotly parses its tags. */

import { LEVELS } from "./levels.js";

const DAY = 24 * 60 * 60 * 1000;

/**
 * Return the chart of a history and, if there are any, a forecast and its actuals, in the API's format.
 *
 * The history may be empty, and an actual may be null.
 */
export function forecastChart(history, forecast, actual, isBaseline) {
  return (colours) => ({
    traces: [
      ...(history.ds.length ? [history.bars ? candles(history, colours) : line(history, colours)] : []),
      ...(forecast ? forecastTraces(history, forecast, isBaseline, colours) : []),
      ...(actual.some((value) => value !== null) ? [actualTrace(history, forecast, actual, colours)] : []),
    ],
    layout: {
      xaxis: { rangebreaks: closedDays([...history.ds, ...(forecast?.ds ?? [])]) },
      ...(forecast ? { shapes: [cutoffLine(forecast.cutoff, colours)] } : {}),
    },
  });
}

function candles({ ds, bars }, { muted, card }) {
  const outline = { color: muted, width: 1.2 };
  return {
    type: "candlestick",
    name: "Bars",
    x: ds,
    ...bars,
    increasing: { line: outline, fillcolor: card },
    decreasing: { line: outline, fillcolor: muted },
  };
}

function line({ ds, y }, { muted }) {
  return { type: "scatter", mode: "lines", name: "History", x: ds, y, line: { color: muted, width: 1.8 } };
}

/** Return the bands and the mean, starting at the last value of the history. */
function forecastTraces({ y }, forecast, isBaseline, colours) {
  const last = y.slice(-1);
  const x = [...last.map(() => forecast.cutoff), ...forecast.ds];
  const mean = {
    type: "scatter",
    mode: "lines+markers",
    name: isBaseline ? "Baseline’s forecast" : "Forecast",
    x,
    y: [...last, ...forecast.mean],
    line: { color: colours.accent, width: 2.5, dash: isBaseline ? "dot" : "solid" },
    marker: { size: 6, opacity: [...last.map(() => 0), ...forecast.mean.map(() => 1)] },
  };
  return [...LEVELS.toReversed().map((level) => band(level, x, last, forecast, colours)), mean];
}

function band(level, x, last, forecast, colours) {
  // there are no bounds beyond the trained horizon
  const bounds = (side) => (forecast[`${side}-${level}`] ?? []).filter((value) => value !== null);
  const [low, high] = [bounds("lo"), bounds("hi")];
  const times = x.slice(0, high.length + last.length);
  return {
    type: "scatter",
    mode: "lines",
    name: `${level} % interval`,
    x: [...times, ...times.toReversed()],
    y: [...last, ...high, ...low.toReversed(), ...last],
    fill: "toself",
    fillcolor: colours[`band-${level}`],
    line: { width: 0, color: colours.accent },
    hoverinfo: "skip",
  };
}

/** Return the actuals, starting at the last value of the history. */
function actualTrace({ y }, forecast, actual, { ink }) {
  const last = y.slice(-1);
  return {
    type: "scatter",
    mode: "lines+markers",
    name: "Actuals",
    x: [...last.map(() => forecast.cutoff), ...forecast.ds.slice(0, actual.length)],
    y: [...last, ...actual],
    line: { color: ink, width: 1.5 },
    marker: { size: 5, opacity: [...last.map(() => 0), ...actual.map(() => 1)] },
  };
}

function cutoffLine(cutoff, { muted }) {
  const line = { color: muted, width: 1, dash: "dot" };
  return { type: "line", xref: "x", yref: "paper", x0: cutoff, x1: cutoff, y0: 0, y1: 1, line };
}

/** Return the days without data in a series of mostly daily data, so that the chart leaves no gaps for them. */
export function closedDays(times) {
  const days = [...new Set(times.map((time) => Date.parse(`${time.slice(0, 10)}T00:00:00Z`)))].sort((a, b) => a - b);
  const span = (days.at(-1) - days[0]) / DAY + 1;
  const isDaily = days.length === times.length && days.length > 0.5 * span && days.length < span;
  if (!isDaily) return [];
  const open = new Set(days);
  const closed = Array.from({ length: span }, (_, day) => days[0] + day * DAY).filter((day) => !open.has(day));
  return [{ values: closed.map((day) => new Date(day).toISOString().slice(0, 10)), dvalue: DAY }];
}
