/** A version's example: the last window of its test part, with the forecast and the actuals. */

import { get } from "./api.js";

// the example's name in the form: under its own name, its forecast would be one of the real series
export const EXAMPLE = "example";

/** Return the example of a model's version. */
export function readExample(model, version) {
  return get(`v1/models/${encodeURIComponent(model)}/versions/${version}/example`);
}

/** Return an example's rows as CSV: the history, and the values known ahead after the cutoff. */
export function exampleCsv({ series, forecast }) {
  const { ds, y, hist_exog: hist, futr_exog: futr, stat_exog: stat } = series;
  const columns = [y, ...Object.values(hist), ...Object.values(futr)];
  const times = Object.keys(futr).length ? [...ds, ...forecast.ds] : ds;
  const same = Object.values(stat);
  const rows = times.map((time, row) => [time, ...columns.map((column) => column[row] ?? ""), ...same].join(","));
  const names = [hist, futr, stat].flatMap(Object.keys);
  return [["ds", "y", ...names].join(","), ...rows].join("\n");
}
