/** Sentences about forecasts and the skill of a version. */

import { percent, pValue, ratio, time } from "./format.js";

export const NO_SKILL = "no demonstrated skill";
const BASELINES = { naive: "the last value" };

/** Return the display name of a baseline. */
export function baselineName(name) {
  return BASELINES[name] ?? `the ${name} baseline`;
}

/** Return a sentence that names the model or the baseline that made a forecast. */
export function madeBy({ model: { name, version, alias }, forecast_by: by }) {
  const model = `${name}, version ${version}${alias ? ` (${alias})` : ""}`;
  return by === "model" ? `By ${model}.` : `By the ${by} baseline, ${baselineName(by)}, in place of ${model}.`;
}

/** Return a phrase that compares an error with a baseline's. */
export function comparison(relative, baseline) {
  if (relative === null) return `${baselineName(baseline)} has no error to compare with`;
  const difference = percent(Math.abs(1 - relative));
  return `${difference} ${relative < 1 ? "smaller" : "larger"} than that of ${baselineName(baseline)}`;
}

/** Return a sentence about a version's skill, and its figures. */
export function describeSkill({
  baseline, relative_mae: relative, p_value: p, n_windows: windows, n_effective: effective, coverage, first, last,
}) {
  const period = first && last ? ` from ${time(first).slice(0, 10)} to ${time(last).slice(0, 10)}` : "";
  const text =
    relative === null
      ? `On its test part${period}, ${comparison(relative, baseline)}.`
      : `On its test part${period}, in ${windows} windows, the recipe’s MAE was ${comparison(relative, baseline)}.`;
  const figures = [
    ["Relative MAE", ratio(relative), "MAE divided by the last value’s; below 1 is better"],
    ["Windows without overlap", effective ?? "", "at least 30 are needed to show skill"],
    ["p-value", pValue(p), p === null ? "too few windows to test" : "Diebold–Mariano test"],
    ...Object.entries(coverage).map(([level, share]) => [`${level} % coverage`, percent(share), "on the test part"]),
  ];
  return { text, figures };
}
