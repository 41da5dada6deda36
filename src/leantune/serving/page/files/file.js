/** Classification of a file: its columns, the progress, and the download of the labels. */

import { bars } from "./bars.js";
import { classifyAll } from "./batches.js";
import { chosen, whenChosen, whyNone } from "./classifier.js";
import { $, element, name, say } from "./elements.js";
import { csvFile, FileError, freeName, guessColumn, readRows } from "./rows.js";
import { count, duration, many, percent, rate, shortened } from "./words.js";

const TABLE_ROWS = 100;
const SHOW_EVERY_MS = 200;
const SAY_EVERY_MS = 10_000;

/** The file that was read: {file, rows, isPlain, hasMark, names, first}. The texts begin at row `first`. */
let table = null;
/** The results by row: {key, labels, scores, numDone, refused, numLabels}. `key` identifies classifier and columns. */
let results = null;
/** The AbortController of the running classification, or null. */
let running = null;

async function open(file, encoding = null) {
  if (running || !file) return;
  $("file").value = ""; // so that the same file can be selected again after a change
  fail("");
  table = results = null;
  $("file-ready").hidden = $("file-work").hidden = true;
  $("drop").classList.add("busy");
  say($("file-note"), `Reading ${file.name} …`);
  try {
    table = { file, ...(await readRows(file, encoding)) };
    $("has-names").checked = true;
    takeNames();
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    fail(error.message);
    if (error.mayBeWindows) offerWindows(file);
  } finally {
    $("drop").classList.remove("busy");
    say($("file-label"), table ? "Choose another file" : "Choose a file");
    say($("file-note"), table ? file.name : "or drop a CSV, TSV or TXT file here. It is read in this browser; only the texts are sent to the server.");
  }
}

function offerWindows(file) {
  const button = element("button", "link", "Read it as Windows-1252");
  button.type = "button";
  button.addEventListener("click", () => open(file, "windows-1252"));
  $("file-error").append(" If the file comes from an older Windows program: ", button);
}

function fail(message) {
  say($("file-error"), message);
}

/** Set column names and column choices according to whether the first row contains names. */
function takeNames() {
  const hasNames = !table.isPlain && $("has-names").checked;
  table.first = hasNames ? 1 : 0;
  table.names = table.isPlain ? ["text"] : table.rows[0].map((each, i) => (hasNames && each.trim() ? each : `column ${i + 1}`));
  const rows = numRows();
  $("header-field").hidden = table.isPlain;
  $("file-ready").hidden = false;
  say($("file-found"), `${many(rows, "row")}${table.isPlain ? ", one text per line" : `, ${many(table.names.length, "column")}`}`);
  fail(rows ? "" : `${table.file.name} contains column names but no rows.`);
  const options = () => table.names.map((each, i) => new Option(shortened(each, 80), i));
  const start = table.rows.slice(table.first, table.first + 200);
  const text = guessColumn(table.names, start);
  $("column").replaceChildren(...options());
  $("column").value = text;
  $("pair-column").replaceChildren(new Option("none", -1), ...options());
  $("pair-column").value = -1;
  if (chosen?.takes_pairs && table.names.length > 1) $("pair-column").value = guessPair(start, text);
  adapt();
}

/** Return the index of the likely second text column: by its name, else the one with the most characters. */
function guessPair(rows, text) {
  const low = table.names.map((each) => each.toLowerCase());
  const named = ["text_pair", "sentence2", "text2", "hypothesis", "answer"].map((each) => low.indexOf(each)).find((i) => i >= 0 && i !== text);
  return named ?? guessColumn(table.names, rows, text);
}

const numRows = () => table.rows.length - table.first;
const columns = () => [Number($("column").value), Number($("pair-column").value)].filter((i) => i >= 0);
const inputsOf = (i) => columns().map((column) => table.rows[table.first + i][column]);
const keyOfWork = () => JSON.stringify([chosen?.served_model_name, chosen?.model_sha, table.first, columns()]);

/** Update buttons and pair fields for the current classifier, file and progress. */
function adapt() {
  $("pair-column-field").hidden = !chosen || chosen.takes_pairs === false;
  if (!chosen || chosen.takes_pairs === false) $("pair-column").value = -1;
  for (const id of ["column", "pair-column", "has-names", "file", "model", "search"]) $(id).disabled = Boolean(running);
  $("drop").classList.toggle("busy", Boolean(running));
  if (!table) return;
  const rows = numRows();
  const isMine = results?.key === keyOfWork();
  const numLeft = isMine ? rows - results.numDone : rows;
  say($("sample"), rows ? shortened(inputsOf(0).join(" / "), 130) : "");
  $("start").hidden = Boolean(running) || numLeft === 0;
  $("start").disabled = !rows;
  say($("start"), isMine && results.numDone ? `Continue with ${many(numLeft, "row")}` : `Classify ${many(rows, "row")}`);
  $("stop").hidden = !running;
  $("download").hidden = Boolean(running) || !results?.numDone;
  $("download").classList.toggle("main", $("start").hidden);
}

async function start() {
  if (!chosen) return fail(whyNone());
  const key = keyOfWork();
  if (chosen.takes_pairs && columns().length < 2) {
    const only = table.names.length < 2 ? `${table.file.name} has only one column: choose a file with two columns, or a classifier for single texts.` : "Choose the second text column.";
    return fail(`This classifier requires text pairs. ${only}`);
  }
  fail("");
  const rows = numRows();
  if (results?.key !== key) {
    results = { key, labels: new Array(rows).fill(null), scores: new Float64Array(rows), numDone: 0, refused: new Map(), numLabels: new Map() };
    clearTable();
  }
  const places = [];
  for (let i = 0; i < rows; i++) if (results.labels[i] === null && !results.refused.has(i)) places.push(i);
  running = new AbortController();
  const before = results.numDone;
  const begun = performance.now();
  $("file-work").hidden = false;
  $("progress").max = rows;
  adapt();
  $("stop").focus();
  say($("file-said"), `Classifying ${many(places.length, "row")}.`);
  const timer = setInterval(() => showProgress(begun, before), SHOW_EVERY_MS);
  const speaker = setInterval(() => say($("file-said"), `${count(results.numDone)} of ${many(rows, "row")}.`), SAY_EVERY_MS);
  try {
    await classifyAll({
      places,
      model: chosen.served_model_name,
      inputsOf,
      onRows: (found) => found.forEach(([i, label, score]) => take(i, label, score)),
      onRefused: (i, message) => { results.refused.set(i, message); results.numDone++; showRow(i); },
      onWait: (seconds, message) => say($("file-wait"), seconds ? `${message} Retrying in ${seconds} s.` : ""),
      signal: running.signal,
    });
    if (results.numDone < rows) say($("file-said"), `Stopped at ${count(results.numDone)} of ${many(rows, "row")}.`);
  } catch (refusal) {
    fail(`${refusal.message}\n${count(results.numDone)} of ${many(rows, "row")} are done and kept: continue later, or download them now.`);
  } finally {
    clearInterval(timer);
    clearInterval(speaker);
    say($("file-wait"), "");
    running = null;
    showProgress(begun, before);
    adapt();
    if (results.numDone === rows) say($("file-said"), `Done: ${many(rows, "row")}.`);
    if (document.activeElement === document.body) (results.numDone === rows ? $("download") : $("start")).focus();
  }
}

function take(i, label, score) {
  results.labels[i] = label;
  results.scores[i] = score;
  results.numDone++;
  results.numLabels.set(label, (results.numLabels.get(label) ?? 0) + 1);
  showRow(i);
}

function showProgress(begun, before) {
  const rows = numRows();
  const seconds = (performance.now() - begun) / 1000;
  const perSecond = (results.numDone - before) / seconds;
  const words = [`${count(results.numDone)} of ${many(rows, "row")}`];
  if (results.numDone > before) words.push(`${rate(perSecond)} rows/s`);
  if (running && results.numDone > before) words.push(`${duration((rows - results.numDone) / perSecond)} left`);
  if (!running && results.numDone > before) words.push(duration(seconds));
  if (results.refused.size) words.push(`${count(results.refused.size)} without a label`);
  $("progress").value = results.numDone;
  say($("progress-text"), words.join(" · "));
  showLabels();
}

/** Show the number of rows by label. */
function showLabels() {
  const numLabeled = results.numDone - results.refused.size;
  if (running || !numLabeled) return $("file-labels").replaceChildren();
  const most = [...results.numLabels].sort((a, b) => b[1] - a[1]);
  const rows = most.map(([label, number]) => ({ label, share: number / numLabeled, value: count(number) }));
  $("file-labels").replaceChildren(element("h3", "", "Rows by label"), bars(rows));
}

function clearTable() {
  const shown = Math.min(TABLE_ROWS, numRows());
  const rows = Array.from({ length: shown }, (_, i) => {
    const text = element("div", "text", shortened(inputsOf(i).join("\n"), 400));
    text.dir = "auto";
    const number = element("th", "number", count(i + 1));
    number.scope = "row";
    return element("tr", "", number, element("td", "", text), element("td"), element("td", "number"));
  });
  $("table-rows").replaceChildren(...rows);
  say($("table-caption"), numRows() > shown ? `The first ${shown} rows; the download contains all` : `All ${many(shown, "row")}`);
}

function showRow(i) {
  if (i >= TABLE_ROWS) return;
  const [, , label, score] = $("table-rows").rows[i].cells;
  const refused = results.refused.get(i);
  label.className = refused === undefined ? "" : "refused";
  label.replaceChildren(refused ?? name(results.labels[i]));
  say(score, refused === undefined ? percent(results.scores[i]) : "");
}

async function download() {
  const { names, rows, first, hasMark, isPlain, file } = table;
  const header = first || isPlain ? [...names, freeName("label", names), freeName("score", names)] : null;
  const rowAt = (i) => {
    const label = results.labels[i];
    return [...rows[first + i], label ?? "", label === null ? "" : Number(results.scores[i].toFixed(6))];
  };
  $("download").disabled = true;
  const blob = await csvFile(header, numRows(), rowAt, hasMark);
  $("download").disabled = false;
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${file.name.replace(/\.[^.]*$/, "")}-labels.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  const left = numRows() - results.numDone;
  say($("file-said"), `Downloading ${link.download}.${left ? ` Rows without a label: ${count(left)}.` : ""}`);
}

$("file").addEventListener("change", () => open($("file").files[0]));
$("has-names").addEventListener("change", takeNames);
$("column").addEventListener("change", adapt);
$("pair-column").addEventListener("change", adapt);
$("start").addEventListener("click", start);
$("stop").addEventListener("click", () => running?.abort());
$("download").addEventListener("click", download);
whenChosen(() => {
  if (table && chosen?.takes_pairs && columns().length < 2 && table.names.length > 1) {
    $("pair-column").value = guessPair(table.rows.slice(table.first, table.first + 200), Number($("column").value));
  }
  adapt();
});

/** Accept drops on the whole page: elsewhere, the browser would navigate to the file. */
const hasFile = (event) => event.dataTransfer?.types.includes("Files");
for (const type of ["dragenter", "dragover"]) {
  addEventListener(type, (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
addEventListener("dragleave", (event) => event.relatedTarget === null && $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  if (!hasFile(event)) return;
  event.preventDefault();
  $("drop").classList.remove("over");
  open(event.dataTransfer.files[0]);
});
addEventListener("beforeunload", (event) => {
  if (running) event.preventDefault();
});
