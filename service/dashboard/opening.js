/** What the page shows of a model at first: its newest served forecast, else its example. */

import { get } from "./api.js";
import { EXAMPLE, readExample } from "./example.js";

const MAX_FORECASTS = 20;

/**
 * Return what to open a model with: `{served, history}`, `{example}`, or an empty object.
 *
 * `readStored(name)` returns the history of a stored series, or null if the series is not stored.
 */
export async function findOpening({ name, number, hasExample }, readStored) {
  const { forecasts } = await get("v1/forecasts", { model: name, is_shadow: false, limit: 1 });
  const [served] = forecasts;
  const example = hasExample ? await readExample(name, number) : null;
  if (!served) return example ? { example } : {};
  const { unique_id: uniqueId, cutoff } = served.forecast;
  // the ledger does not store the history of a request
  if (uniqueId === EXAMPLE && cutoff === example?.forecast.cutoff) {
    return { served: { ...served, actual: example.actual }, history: example.series };
  }
  return { served, history: (await readStored(uniqueId)) ?? (await readActuals(name, uniqueId, cutoff)) };
}

/** Return a series' actuals up to a cutoff as its history; an empty history if the actual at the cutoff is unknown. */
async function readActuals(model, uniqueId, cutoff) {
  const { forecasts } = await get("v1/forecasts", { model, unique_id: uniqueId, limit: MAX_FORECASTS });
  const steps = forecasts.flatMap(({ forecast, actual }) => forecast.ds.map((ds, step) => [ds, actual[step]]));
  const known = new Map(steps.filter(([, y]) => y !== null));
  const ds = known.has(cutoff) ? [...known.keys()].sort() : [];
  return { ds, y: ds.map((time) => known.get(time)) };
}
