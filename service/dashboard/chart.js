/** Charts by Plotly, in the page's colours, drawn again when those change. */

import { element } from "./dom.js";

const SCRIPT = "dashboard/plotly.min.js";
const CONFIG = { responsive: true, displayModeBar: false };
const DARK = matchMedia("(prefers-color-scheme: dark)");
const TOUCH = matchMedia("(pointer: coarse)");
const drawn = new Map();
let loading = null;

/** Load Plotly, once. */
export function loadPlotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = element("script", { src: SCRIPT });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("charts cannot be drawn because Plotly did not load; the tables have the same numbers"));
    document.head.append(script);
  });
  return loading;
}

/** Draw what `build(colours)` returns, `{traces, layout}`, into an element, described by `words`. */
export async function draw(place, build, words) {
  drawn.set(place, build);
  place.setAttribute("aria-label", words);
  const plotly = await loadPlotly();
  // a later one has come
  if (drawn.get(place) !== build) return;
  const colours = readColours();
  const { traces, layout } = build(colours);
  await plotly.react(place, traces, merge(usualLayout(colours), layout), CONFIG);
}

/** Empty a chart. */
export function wipe(place) {
  drawn.delete(place);
  if (window.Plotly) window.Plotly.purge(place);
}

DARK.addEventListener("change", () => {
  for (const [place, build] of drawn) draw(place, build, place.getAttribute("aria-label"));
});

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "muted", "line", "card", "accent", "second", "band-80", "band-95"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function usualLayout({ ink, muted, line, card }) {
  const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true, tickfont: { color: muted } };
  return {
    font: { family: "system-ui, sans-serif", size: 13, color: ink },
    paper_bgcolor: card,
    plot_bgcolor: card,
    margin: { l: 8, r: 8, t: 8, b: 8 },
    xaxis: { ...axis, type: "date", rangeslider: { visible: false }, showgrid: false, showline: true },
    yaxis: { ...axis, ticks: "", hoverformat: ".6~g" },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: ink } },
    hovermode: "x",
    hoverlabel: { bgcolor: card, bordercolor: muted, font: { color: ink } },
    // a finger that scrolls the page must not zoom the chart
    dragmode: TOUCH.matches ? false : "zoom",
  };
}

function merge(usual, special) {
  return { ...usual, ...special, xaxis: { ...usual.xaxis, ...special.xaxis }, yaxis: { ...usual.yaxis, ...special.yaxis } };
}
