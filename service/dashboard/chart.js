/** Plotly charts in the page's colours, redrawn when the colour scheme changes. */

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

/** Draw the `{traces, layout}` that `build(colours)` returns into an element with the ARIA label `label`. */
export async function draw(target, build, label) {
  drawn.set(target, build);
  target.setAttribute("aria-label", label);
  const plotly = await loadPlotly();
  // a later call has replaced this chart
  if (drawn.get(target) !== build) return;
  const colours = readColours();
  const { traces, layout } = build(colours);
  await plotly.react(target, traces, merge(baseLayout(colours), layout), CONFIG);
}

/** Remove a chart. */
export function clearChart(target) {
  drawn.delete(target);
  if (window.Plotly) window.Plotly.purge(target);
}

DARK.addEventListener("change", () => {
  for (const [target, build] of drawn) draw(target, build, target.getAttribute("aria-label"));
});

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "muted", "line", "card", "accent", "second", "band-80", "band-95"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function baseLayout({ ink, muted, line, card }) {
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
    // on a touch screen, scrolling the page must not zoom the chart
    dragmode: TOUCH.matches ? false : "zoom",
  };
}

function merge(base, layout) {
  return { ...base, ...layout, xaxis: { ...base.xaxis, ...layout.xaxis }, yaxis: { ...base.yaxis, ...layout.yaxis } };
}
