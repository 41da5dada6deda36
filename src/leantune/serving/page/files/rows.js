/** Reading of files with the rules of `leantune predict`, and writing of CSV files. Papa Parse handles CSV. */

import { count } from "./words.js";

const MOST_BYTES = 400_000_000;
const CHUNK_CHARACTERS = 1 << 18;
const CHUNK_ROWS = 2_000;
const TEXT_COLUMNS = ["text", "sentence", "review", "content"];
const DELIMITERS = [",", ";", "\t", "|"];

/** An unreadable file. `mayBeWindows`: whether Windows-1252 may be its encoding. */
export class FileError extends Error {
  constructor(message, mayBeWindows = false) {
    super(message);
    this.mayBeWindows = mayBeWindows;
  }
}

/** Let the browser update the page and handle events. */
const breath = () => new Promise((resolve) => setTimeout(resolve));

/**
 * Read all rows of a file as {rows, isPlain, hasMark}. All rows have the same width, and the first one may contain
 * column names. A plain file has one text per line and no names. `hasMark`: whether there is a byte order mark.
 */
export async function readRows(file, encoding = null) {
  const kind = /\.(tsv|tab)$/i.test(file.name) ? "tsv" : /\.txt$/i.test(file.name) ? "txt" : "csv";
  if (file.size === 0) throw new FileError(`${file.name} is empty. Choose a file with rows.`);
  if (file.size > MOST_BYTES) {
    throw new FileError(`${file.name} has ${count(file.size / 1e6)} MB; the limit of this page is ${MOST_BYTES / 1e6} MB. Split the file, or use “leantune predict” on the command line.`);
  }
  const { text, hasMark } = await decoded(file, encoding);
  const rows = kind === "csv" ? await csvRows(text, file.name) : lineRows(text, kind);
  if (rows.length === 0) throw new FileError(`${file.name} contains only empty lines. Choose a file with rows.`);
  let width = 0;
  for (const row of rows) width = Math.max(width, row.length);
  for (const row of rows) while (row.length < width) row.push("");
  return { rows, isPlain: kind === "txt", hasMark };
}

async function decoded(file, encoding) {
  const start = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const begins = (...bytes) => bytes.every((byte, i) => start[i] === byte);
  if (begins(0x50, 0x4b, 3, 4)) {
    throw new FileError(`${file.name} is an Excel workbook or an archive. Save the sheet as “CSV UTF-8” and choose that file.`);
  }
  const marked = begins(0xff, 0xfe) ? "utf-16le" : begins(0xfe, 0xff) ? "utf-16be" : null;
  const decoder = new TextDecoder(encoding ?? marked ?? "utf-8", { fatal: true });
  const parts = [];
  try {
    for (const reader = file.stream().getReader(); ; ) {
      const { done, value } = await reader.read();
      parts.push(decoder.decode(value, { stream: !done }));
      if (done) break;
    }
  } catch (error) {
    if (!(error instanceof TypeError)) throw new FileError(`${file.name} cannot be read (${error.message}). It may have been moved or changed. Choose it again.`);
    throw new FileError(`${file.name} is not encoded in UTF-8. Save it as UTF-8 (in Excel: “CSV UTF-8”).`, !encoding);
  }
  const text = parts.join("");
  if (text.includes("\0")) throw new FileError(`${file.name} is not a text file. Choose a CSV, TSV or TXT file.`);
  return { text, hasMark: marked !== null || begins(0xef, 0xbb, 0xbf) };
}

/** Split a TXT or TSV file into rows by line. In TSV, every tab separates, and only quotes around a whole field count. */
function lineRows(text, kind) {
  const lines = text.split(/\r\n|\n|\r/);
  while (lines.length && !lines.at(-1)) lines.pop();
  if (kind === "txt") return lines.map((line) => [line]);
  const isWide = lines.some((line) => line.includes("\t"));
  return lines.filter((line) => line || !isWide).map((line) => line.split("\t").map(unwrapped));
}

const unwrapped = (field) => (/^"(?:[^"]|"")*"$/.test(field) ? field.slice(1, -1).replaceAll('""', '"') : field);

async function csvRows(text, fileName) {
  const rows = [];
  const delimiter = delimiterOf(text);
  await new Promise((resolve, reject) => {
    Papa.parse(text, {
      delimiter,
      chunkSize: CHUNK_CHARACTERS,
      chunk({ data, errors }, parser) {
        const broken = errors.find((error) => error.type === "Quotes");
        if (broken) {
          const place = count(rows.length + (broken.row ?? 0) + 1);
          reject(new FileError(`${fileName}, row ${place}: a quoted field is not closed, or closed too early. Close the quotes, and double each quote inside a text.`));
          parser.abort();
          return;
        }
        for (const row of data) rows.push(row);
        parser.pause();
        setTimeout(() => parser.resume());
      },
      complete: () => resolve(),
      error: reject,
    });
  });
  const isEmpty = (row) => row.length === 1 && row[0] === "";
  while (rows.length && isEmpty(rows.at(-1))) rows.pop();
  return rows.some((row) => row.length > 1) ? rows.filter((row) => !isEmpty(row)) : rows;
}

/** Return the first delimiter that splits the first row into several columns; a comma if there is none. */
function delimiterOf(text) {
  const start = text.slice(0, 100_000);
  const width = (delimiter) => Papa.parse(start, { delimiter, preview: 1 }).data[0]?.length ?? 0;
  return DELIMITERS.find((delimiter) => width(delimiter) > 1) ?? ",";
}

/** Return the index of the likely text column: by its name, else the one with the most characters. */
export function guessColumn(names, rows, taken = -1) {
  const low = names.map((each) => each.trim().toLowerCase());
  const named = TEXT_COLUMNS.map((each) => low.indexOf(each)).find((place) => place >= 0 && place !== taken);
  if (named !== undefined) return named;
  const sizes = names.map((_, place) => (place === taken ? -1 : rows.slice(0, 200).reduce((sum, row) => sum + row[place].length, 0)));
  return sizes.indexOf(Math.max(...sizes));
}

/** Return an unused name for a new column: `label`, or `predicted_label` if that name exists. */
export function freeName(wanted, names) {
  let free = names.includes(wanted) ? `predicted_${wanted}` : wanted;
  for (let i = 2; names.includes(free); i++) free = `predicted_${wanted}_${i}`;
  return free;
}

/** Create a CSV file from a header (or null) and rows, optionally with the UTF-8 byte order mark for Excel. */
export async function csvFile(header, numRows, rowAt, hasMark) {
  const written = (rows) => `${Papa.unparse(rows, { newline: "\r\n" })}\r\n`;
  const parts = hasMark ? ["\ufeff"] : [];
  if (header) parts.push(written([header]));
  for (let start = 0; start < numRows; start += CHUNK_ROWS) {
    const size = Math.min(CHUNK_ROWS, numRows - start);
    parts.push(written(Array.from({ length: size }, (_, i) => rowAt(start + i))));
    await breath();
  }
  return new Blob(parts, { type: "text/csv;charset=utf-8" });
}
