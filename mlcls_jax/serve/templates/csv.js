// The same escape as mlcls_jax/data/readers/csv_writing.py: a spreadsheet runs no cell.
const SPACE = "(?:(?![\\t\\r\\n\\ufeff])[\\s\\x1c-\\x1f\\x85])*";
const FORMULA = `(?='*(?:${SPACE}[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\\t\\r\\n]))`;
const ESCAPE = new RegExp(`(^|[;\\t\\r\\n])${FORMULA}`, "g");

function cell(text) {
  const escaped = text.replace(ESCAPE, "$1'");
  return /[",\r\n]/.test(escaped) ? `"${escaped.replaceAll('"', '""')}"` : escaped;
}

// Returns a CSV with a row for each image, as `predict` writes it.
function csvText(classes, rows) {
  const lines = [["filename", ...classes].map(cell)];
  for (const [name, values] of rows) lines.push([cell(name), ...values]);
  return lines.map((line) => line.join(",") + "\n").join("");
}

function download(name, text) {
  const link = make("a", "", document.body);
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = name;
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
