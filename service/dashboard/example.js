/** A version's example: the last window of its test part, with its actuals and the forecast that was made without them. */

import { get } from "./api.js";

// the series that the form names so; an example's own name would make its forecast one of the real series
export const EXAMPLE = "example";

/** Return the example of a model's version. */
export function readExample(model, version) {
  return get(`v1/models/${encodeURIComponent(model)}/versions/${version}/example`);
}

/** Return an example's rows as text: those before the cutoff, and after it what is known ahead. */
export function exampleCsv({ series, forecast }) {
  const { ds, y, hist_exog: hist, futr_exog: futr } = series;
  const columns = [y, ...Object.values(hist), ...Object.values(futr)];
  const times = Object.keys(futr).length ? [...ds, ...forecast.ds] : ds;
  const rows = times.map((time, row) => [time, ...columns.map((column) => column[row] ?? "")].join(","));
  return [["ds", "y", ...Object.keys(hist), ...Object.keys(futr)].join(","), ...rows].join("\n");
}
