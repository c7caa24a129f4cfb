/** A history and its forecast as what Plotly draws. No text from outside is in them: Plotly would read its tags. */

const DAY = 24 * 60 * 60 * 1000;
const LEVELS = [95, 80];

/** Return the chart of a history, and of a forecast where there is one; both as the API has them. */
export function fan(history, forecast, isBaseline) {
  return (colours) => ({
    traces: [
      history.bars ? candles(history, colours) : line(history, colours),
      ...(forecast ? future(history, forecast, isBaseline, colours) : []),
    ],
    layout: {
      xaxis: { rangebreaks: closedDays([...history.ds, ...(forecast?.ds ?? [])]) },
      ...(forecast ? { shapes: [cut(forecast.cutoff, colours)] } : {}),
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

/** Return the bands and the mean, both from the last known value on. */
function future({ y }, forecast, isBaseline, colours) {
  const last = y.at(-1);
  const x = [forecast.cutoff, ...forecast.ds];
  const mean = {
    type: "scatter",
    mode: "lines+markers",
    name: isBaseline ? "Baseline’s forecast" : "Forecast",
    x,
    y: [last, ...forecast.mean],
    line: { color: colours.accent, width: 2.5, dash: isBaseline ? "dot" : "solid" },
    marker: { size: 6, opacity: [0, ...forecast.mean.map(() => 1)] },
  };
  return [...LEVELS.map((level) => band(level, x, last, forecast, colours)), mean];
}

function band(level, x, last, forecast, colours) {
  // beyond the trained horizon there are none
  const bounds = (side) => (forecast[`${side}-${level}`] ?? []).filter((value) => value !== null);
  const [low, high] = [bounds("lo"), bounds("hi")];
  const times = x.slice(0, high.length + 1);
  return {
    type: "scatter",
    mode: "lines",
    name: `${level} % interval`,
    x: [...times, ...times.toReversed()],
    y: [last, ...high, ...low.toReversed(), last],
    fill: "toself",
    fillcolor: colours[`band-${level}`],
    line: { width: 0, color: colours.accent },
    hoverinfo: "skip",
  };
}

function cut(cutoff, { muted }) {
  const line = { color: muted, width: 1, dash: "dot" };
  return { type: "line", xref: "x", yref: "paper", x0: cutoff, x1: cutoff, y0: 0, y1: 1, line };
}

/** Return the days without a bar, where there is one on most days, so that they leave no hole. */
export function closedDays(times) {
  const days = [...new Set(times.map((time) => Date.parse(`${time.slice(0, 10)}T00:00:00Z`)))].sort((a, b) => a - b);
  const span = (days.at(-1) - days[0]) / DAY + 1;
  const isDaily = days.length === times.length && days.length > 0.5 * span && days.length < span;
  if (!isDaily) return [];
  const open = new Set(days);
  const closed = Array.from({ length: span }, (_, day) => days[0] + day * DAY).filter((day) => !open.has(day));
  return [{ values: closed.map((day) => new Date(day).toISOString().slice(0, 10)), dvalue: DAY }];
}
