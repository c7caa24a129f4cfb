/** What the page shows of a model before anything is requested: its newest served forecast, else its example. */

import { get } from "./api.js";
import { EXAMPLE, readExample } from "./example.js";

const MOST = 20;

/**
 * Return what to open a model with: `{served, history}`, `{example}`, or an empty object.
 *
 * `readStored(name)` returns the history of a stored series, null where the series is not stored.
 */
export async function findOpening({ name, number, hasExample }, readStored) {
  const { forecasts } = await get("v1/forecasts", { model: name, is_shadow: false, limit: 1 });
  const [served] = forecasts;
  const example = hasExample ? await readExample(name, number) : null;
  if (!served) return example ? { example } : {};
  const { unique_id: uniqueId, cutoff } = served.forecast;
  // the history of a request is not in the ledger
  if (uniqueId === EXAMPLE && cutoff === example?.forecast.cutoff) {
    return { served: { ...served, actual: example.actual }, history: example.series };
  }
  return { served, history: (await readStored(uniqueId)) ?? (await readActuals(name, uniqueId, cutoff)) };
}

/** Return a series' actuals up to a cutoff as its history; an empty one where the actual at the cutoff is not known. */
async function readActuals(model, uniqueId, cutoff) {
  const { forecasts } = await get("v1/forecasts", { model, unique_id: uniqueId, limit: MOST });
  const steps = forecasts.flatMap(({ forecast, actual }) => forecast.ds.map((ds, step) => [ds, actual[step]]));
  const known = new Map(steps.filter(([, y]) => y !== null));
  const ds = known.has(cutoff) ? [...known.keys()].sort() : [];
  return { ds, y: ds.map((time) => known.get(time)) };
}
