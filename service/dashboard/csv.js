/** Parse pasted rows: `ds,y` and the model's exogenous columns. */

/**
 * Return the series in a text, in the format of a request.
 *
 * The first line may be a header. Rows without `y` must come last; they hold the values known ahead. For a model that
 * takes missing values, those before the last `y` are missing.
 */
export function readCsv(text, uniqueId, manifest) {
  const lines = text.split(/\r?\n/).map((line, index) => ({ cells: split(line), number: index + 1 }));
  const rows = lines.filter(({ cells }) => cells.some((cell) => cell !== ""));
  const columns = rows[0]?.cells[0].toLowerCase() === "ds" ? rows.shift().cells : ["ds", "y"];
  const position = Object.fromEntries(columns.map((name, index) => [name, index]));
  if (position.y === undefined) throw new Error("the first line has no column y; write ds,y");
  if (rows.length === 0) throw new Error("there are no rows; paste lines of ds,y, or press Example series");
  const isKnown = ({ cells }) => (cells[position.y] ?? "") !== "";
  const mayMiss = manifest.missing === "mask";
  const known = mayMiss ? rows.slice(0, rows.findLastIndex(isKnown) + 1) : rows.filter(isKnown);
  const late = rows.find((row, number) => isKnown(row) && number >= known.length);
  if (!known.length) throw new Error("no row has a value of y; paste the history of the series");
  if (late) throw new Error(`line ${late.number}: rows without y come last; give the missing value before it`);
  const take = (from, name) => from.map((row) => toNumber(row, position[name], name));
  const takeObserved = (from, name) =>
    from.map((row) => (mayMiss && (row.cells[position[name]] ?? "") === "" ? null : toNumber(row, position[name], name)));
  const chosen = (from, names, read = take) =>
    Object.fromEntries(names.filter((name) => name in position).map((name) => [name, read(from, name)]));
  // columns that are constant within the series: the first row's values
  const described = Object.entries(manifest.stat_exog).filter(([name]) => name in position);
  const valueOf = ([name, { values }]) => [name, values ? known[0].cells[position[name]] : take(known, name)[0]];
  return {
    unique_id: uniqueId,
    ds: known.map(({ cells }) => cells[position.ds]),
    y: takeObserved(known, "y"),
    hist_exog: chosen(known, Object.keys(manifest.hist_exog), takeObserved),
    futr_exog: chosen(rows, Object.keys(manifest.futr_exog)),
    stat_exog: Object.fromEntries(described.map(valueOf)),
  };
}

function split(line) {
  const delimiter = [",", ";", "\t"].find((candidate) => line.includes(candidate)) ?? ",";
  return line.split(delimiter).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1"));
}

function toNumber({ cells, number }, position, name) {
  const text = cells[position] ?? "";
  const value = Number(text);
  if (text === "" || !Number.isFinite(value)) {
    throw new Error(`line ${number}: '${text}' is not a value of ${name}; write a number such as 1.25`);
  }
  return value;
}
