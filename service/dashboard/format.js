/** Format numbers and times. */

const DIGITS = 6;
const NUMBER = new Intl.NumberFormat("en", { maximumSignificantDigits: DIGITS, useGrouping: false });
const RATIO = new Intl.NumberFormat("en", { minimumFractionDigits: 3, maximumFractionDigits: 3, useGrouping: false });
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, useGrouping: false });
const COUNT = new Intl.NumberFormat("en");

/** Format a value with six significant digits; a dash if it is missing. */
export function number(value) {
  return value === null || value === undefined ? "–" : NUMBER.format(value);
}

/** Return a function that formats all values with the decimals that give the largest six significant digits. */
export function sameDecimals(values) {
  const largest = Math.max(...values.filter((value) => typeof value === "number").map(Math.abs));
  const decimals = largest > 0 ? Math.min(Math.max(DIGITS - 1 - Math.floor(Math.log10(largest)), 0), 10) : 0;
  return (value) => (value === null || value === undefined ? "–" : value.toFixed(decimals));
}

/** Format a ratio with three decimals; a dash if it is missing. */
export function ratio(value) {
  return value === null || value === undefined ? "–" : RATIO.format(value);
}

/** Format a value with three significant digits; a dash if it is missing. */
export function short(value) {
  return value === null || value === undefined ? "–" : SHORT.format(value);
}

/** Format a whole number. */
export function count(value) {
  return COUNT.format(value);
}

/** Format a share as a percentage; a dash if it is missing. */
export function percent(share) {
  return share === null || share === undefined ? "–" : `${Math.round(share * 1000) / 10} %`;
}

/** Format a p-value; a dash if it is missing. */
export function pValue(p) {
  if (p === null || p === undefined) return "–";
  return p < 0.001 ? "below 0.001" : short(p);
}

/** Format a time without zero seconds; as a date if `isDay`. */
export function time(text, isDay = isMidnight(text)) {
  const plain = text.replace(/\.0+(?=$|Z|[+-])/, "");
  return isDay ? plain.slice(0, 10) : plain.replace("T", " ").replace(/^(\S+ \d\d:\d\d):00(?=$|Z|[+-])/, "$1");
}

/** Return whether a time is midnight without a time zone, which is shown as a date. */
export function isMidnight(text) {
  return /^[^T]+(T00:00:00(\.0+)?)?$/.test(text);
}

/** Format an instant as date and minute in UTC. */
export function instant(text) {
  return `${text.slice(0, 16).replace("T", " ")} UTC`;
}
