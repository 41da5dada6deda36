/** The form for one text or text pair: its labels, and the equivalent curl command. */

import { bars } from "./bars.js";
import { chosen, whenChosen, whyNone } from "./classifier.js";
import { $, element, name, say } from "./elements.js";
import { ask, key } from "./server.js";
import { many, milliseconds, percent } from "./words.js";

const text = $("text");
const pair = $("pair");
const result = $("text-result");
let asking = null;

async function classify(event) {
  event.preventDefault();
  say($("text-error"), "");
  if (!chosen) return say($("text-error"), whyNone());
  const missing = [text, ...(chosen.takes_pairs ? [pair] : [])].find((each) => !each.value.trim());
  if (missing) {
    missing.focus();
    return say($("text-error"), missing === text ? "Enter a text first." : "This classifier requires a second text.");
  }
  asking?.abort();
  const mine = (asking = new AbortController());
  result.setAttribute("aria-busy", "true");
  try {
    const answer = await ask("predict", { body: question(), signal: mine.signal });
    show(answer, chosen);
  } catch (refusal) {
    if (mine !== asking) return;
    say($("text-error"), refusal.message);
    say($("text-said"), "");
  } finally {
    if (mine === asking) result.removeAttribute("aria-busy");
  }
}

/** The body of POST /predict for the entered text. */
function question() {
  const inputs = takesPair() ? [text.value, pair.value] : text.value;
  return { inputs, model: chosen?.served_model_name };
}

/** Whether to send the second text. If it is unknown whether the classifier takes pairs, send a text that was entered. */
const takesPair = () => Boolean(chosen?.takes_pairs ?? pair.value);

function show({ data, headers }, info) {
  const first = data[0];
  const rows = data.map(({ label, score }) => ({ label, share: score, value: percent(score) }));
  const took = `${milliseconds(Number(headers.get("x-total-time")))} · ${many(Number(headers.get("x-compute-tokens")), "token")}`;
  const answer = element("p", "answer", element("span", "big", name(first.label)), element("span", "note numbers", took));
  const wasCut = Number(headers.get("x-truncated-texts")) > 0;
  result.replaceChildren(answer, bars(rows, info.threshold ?? null));
  if (info.is_multi_label) result.append(element("p", "note", "Each label is predicted independently: a text can have several labels."));
  const cut = `The text is longer than the classifier's limit of ${info.max_input_length} tokens and was truncated.`;
  if (wasCut) result.append(element("p", "warning", cut));
  $("text-said").textContent = ""; // so that a screen reader announces an equal answer again
  setTimeout(() => say($("text-said"), `${first.label}, ${percent(first.score)}.${wasCut ? ` ${cut}` : ""}`), 50);
}

function writeCurl() {
  const url = new URL("predict", document.baseURI).href;
  const parts = ["curl", quoted(url), "-H 'Content-Type: application/json'"];
  if (key.get()) parts.push('-H "Authorization: Bearer $LEANTUNE_API_KEY"'); // do not put the key on the clipboard
  parts.push("-d", quoted(JSON.stringify(question())));
  $("curl").textContent = parts.join(" ");
  say($("curl-copied"), "");
}

/** Quote a word for a POSIX shell. */
const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;

async function copyCurl() {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    say($("curl-copied"), "Copied.");
  } catch { // the clipboard is available to https pages only
    getSelection().selectAllChildren($("curl"));
    say($("curl-copied"), "Selected: press Ctrl+C.");
  }
}

function adapt() {
  const takes = chosen?.takes_pairs;
  $("pair-field").hidden = !chosen || takes === false;
  say($("pair-label"), takes === true ? "Second text" : "Second text (only for text pair classifiers)");
  say($("text-label"), takes === true ? "First text" : "Text");
  text.rows = takes ? 4 : 7;
  writeCurl();
}

$("text-form").addEventListener("submit", classify);
$("text-form").addEventListener("input", writeCurl);
$("text-form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) classify(event);
});
$("curl-copy").addEventListener("click", copyCurl);
whenChosen(adapt);
adapt();
