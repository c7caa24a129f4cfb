/** Pasted rows: `ds,y`, and beside them the columns that a model takes. */

/**
 * Return a text's series as a request has it.
 *
 * The first line may name the columns. Rows without `y`, after all others, are what is known ahead.
 */
export function readCsv(text, uniqueId, manifest) {
  const lines = text.split(/\r?\n/).map((line, place) => ({ cells: split(line), number: place + 1 }));
  const rows = lines.filter(({ cells }) => cells.some((cell) => cell !== ""));
  const columns = rows[0]?.cells[0].toLowerCase() === "ds" ? rows.shift().cells : ["ds", "y"];
  const place = Object.fromEntries(columns.map((name, number) => [name, number]));
  if (place.y === undefined) throw new Error("the first line has no column y; write ds,y");
  if (rows.length === 0) throw new Error("there are no rows; paste lines of ds,y, or press Example series");
  const isKnown = ({ cells }) => (cells[place.y] ?? "") !== "";
  const known = rows.filter(isKnown);
  const late = rows.find((row, number) => isKnown(row) && number >= known.length);
  if (late) throw new Error(`line ${late.number}: rows without y come last; give the missing value before it`);
  const take = (from, name) => from.map((row) => toNumber(row, place[name], name));
  const chosen = (from, names) =>
    Object.fromEntries(names.filter((name) => name in place).map((name) => [name, take(from, name)]));
  return {
    unique_id: uniqueId,
    ds: known.map(({ cells }) => cells[place.ds]),
    y: take(known, "y"),
    hist_exog: chosen(known, Object.keys(manifest.hist_exog)),
    futr_exog: chosen(rows, Object.keys(manifest.futr_exog)),
  };
}

function split(line) {
  const mark = [",", ";", "\t"].find((one) => line.includes(one)) ?? ",";
  return line.split(mark).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1"));
}

function toNumber({ cells, number }, place, name) {
  const text = cells[place] ?? "";
  const value = Number(text);
  if (text === "" || !Number.isFinite(value)) {
    throw new Error(`line ${number}: '${text}' is not a value of ${name}; write a number such as 1.25`);
  }
  return value;
}
