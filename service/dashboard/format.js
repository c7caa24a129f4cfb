/** Numbers and times as people read them. */

const DIGITS = 6;
const NUMBER = new Intl.NumberFormat("en", { maximumSignificantDigits: DIGITS, useGrouping: false });
const RATIO = new Intl.NumberFormat("en", { minimumFractionDigits: 3, maximumFractionDigits: 3, useGrouping: false });
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, useGrouping: false });
const COUNT = new Intl.NumberFormat("en");

/** Return a value, six digits of it; a dash where there is none. */
export function number(value) {
  return value === null || value === undefined ? "–" : NUMBER.format(value);
}

/** Return a function that writes values like these, the largest with six digits, all with as many decimals. */
export function alike(values) {
  const largest = Math.max(...values.filter((value) => typeof value === "number").map(Math.abs));
  const decimals = largest > 0 ? Math.min(Math.max(DIGITS - 1 - Math.floor(Math.log10(largest)), 0), 10) : 0;
  return (value) => (value === null || value === undefined ? "–" : value.toFixed(decimals));
}

/** Return an error over another, so that just above 1 is not 1; a dash where there is none. */
export function ratio(value) {
  return value === null || value === undefined ? "–" : RATIO.format(value);
}

/** Return a figure, three digits of it; a dash where there is none. */
export function short(value) {
  return value === null || value === undefined ? "–" : SHORT.format(value);
}

/** Return a whole number. */
export function count(value) {
  return COUNT.format(value);
}

/** Return a share as a percentage; a dash where there is none. */
export function percent(share) {
  return share === null || share === undefined ? "–" : `${Math.round(share * 1000) / 10} %`;
}

/** Return a p-value; a dash where there is none. */
export function chance(p) {
  if (p === null || p === undefined) return "–";
  return p < 0.001 ? "below 0.001" : short(p);
}

/** Return a time, without the parts that say nothing; a date where `isDay`. */
export function time(text, isDay = isMidnight(text)) {
  const plain = text.replace(/\.0+(?=$|Z|[+-])/, "");
  return isDay ? plain.slice(0, 10) : plain.replace("T", " ").replace(/^(\S+ \d\d:\d\d):00(?=$|Z|[+-])/, "$1");
}

/** Say whether a time without a zone is a date. */
export function isMidnight(text) {
  return /^[^T]+(T00:00:00(\.0+)?)?$/.test(text);
}

/** Return an instant's date and minute, UTC. */
export function instant(text) {
  return `${text.slice(0, 16).replace("T", " ")} UTC`;
}
