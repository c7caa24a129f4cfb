/** An example of what a model can be asked: a sine at its frequency, made up. */

const SECONDS = { s: 1, min: 60, h: 3600, D: 86400, W: 7 * 86400 };
const MONTHS = { MS: 1, ME: 1, QS: 3, QE: 3, YS: 12, YE: 12 };
const USUAL_PERIODS = { s: 60, min: 60, h: 24, D: 7, B: 5, W: 52, MS: 12, ME: 12, QS: 4, QE: 4 };

/**
 * Return made-up rows as text, twice as many as the model needs, up to where its training ended.
 *
 * `sessions` are an exchange's last days, for a model whose steps are those; null where none are known.
 */
export function exampleCsv(manifest, sessions) {
  const known = 2 * manifest.input_size;
  const length = known + (Object.keys(manifest.futr_exog).length ? manifest.horizon : 0);
  const times = manifest.sessions ? (sessions ?? []).slice(-length) : timesBefore(manifest, length);
  const unknown = length - known;
  if (times.length - unknown < manifest.input_size) {
    throw new Error(`no days of ${manifest.freq} are stored to make an example of; paste rows of your own`);
  }
  const period = USUAL_PERIODS[unitOf(manifest.freq).unit] ?? 20;
  const [middle, size] = scaleOf(manifest);
  const exogenous = [...Object.keys(manifest.hist_exog), ...Object.keys(manifest.futr_exog)];
  const rows = times.map((time, row) => {
    const value = middle + size * Math.sin((2 * Math.PI * row) / period);
    const text = value.toPrecision(6);
    return [time, row < times.length - unknown ? text : "", ...exogenous.map(() => text)].join(",");
  });
  return [["ds", "y", ...exogenous].join(","), ...rows].join("\n");
}

function unitOf(freq) {
  const [, number, unit] = /^(\d*)(.*)$/.exec(freq);
  return { step: Number(number || 1), unit };
}

/** Return the middle and the amplitude of values that the model has been trained on. */
function scaleOf({ transforms, is_positive: isPositive }) {
  const [first] = transforms;
  if (first?.kind === "standardize") return [first.offset, first.scale];
  return isPositive ? [100, 10] : [0, 1];
}

function timesBefore({ freq, trained_until: until }, length) {
  const { step, unit } = unitOf(freq);
  const last = new Date(`${until.slice(0, 19)}Z`);
  const times = [];
  for (let back = 0; times.length < length; back += 1) {
    const time = before(last, back * step, unit);
    if (unit !== "B" || time.getUTCDay() % 6 !== 0) times.push(time.toISOString().slice(0, 19));
  }
  return times.reverse();
}

function before(last, steps, unit) {
  if (!(unit in MONTHS)) return new Date(last - steps * (SECONDS[unit] ?? SECONDS.D) * 1000);
  const time = new Date(last);
  time.setUTCDate(1);
  time.setUTCMonth(last.getUTCMonth() - steps * MONTHS[unit] + (unit.endsWith("E") ? 1 : 0));
  if (unit.endsWith("E")) time.setUTCDate(0);
  return time;
}
