/** The selection of a classifier and its description. */

import { $, name, say } from "./elements.js";
import { ask } from "./server.js";
import { count, many } from "./words.js";

const SEARCHED_FROM = 21;
const select = $("model");
const search = $("search");
const listeners = [];
let names = null;
let newest = 0;

/** The selected classifier as returned by /info, or null. */
export let chosen = null;

/** Why no classifier is selected. */
export function whyNone() {
  if (!names) return "There is no classifier yet: the list of classifiers has not loaded. Try again in a moment.";
  return names.length ? "Select a classifier first." : "The server has no classifiers. Load one, or start the server with a run folder.";
}

/** Call `listener` whenever the selected classifier changes, possibly to null. */
export const whenChosen = (listener) => listeners.push(listener);

/** Load the list of classifiers. The selected one stays selected if it still exists. */
export async function loadClassifiers() {
  let answer;
  try {
    answer = await ask("v1/models");
  } catch (refusal) {
    if (refusal.status !== 401) say($("model-error"), refusal.message);
    return;
  }
  say($("model-error"), "");
  names = answer.data.data.map((model) => model.id);
  $("search-field").hidden = names.length < SEARCHED_FROM;
  select.disabled = names.length === 0;
  fill();
  if (names.length === 0) say($("model-error"), whyNone());
  await choose();
}

function fill() {
  if (!names) return [];
  const wanted = search.value.trim().toLowerCase();
  const before = select.value;
  const found = names.filter((each) => each.toLowerCase().includes(wanted));
  const kept = !wanted || found.includes(before) || !names.includes(before) ? found : [before, ...found];
  select.replaceChildren(...kept.map((each) => new Option(each, each)));
  if (kept.includes(before)) select.value = before;
  say($("search-found"), wanted ? `${count(found.length)} of ${many(names.length, "classifier")}` : "");
  return found;
}

async function choose() {
  const mine = ++newest; // ignore an answer that arrives after a later selection
  let info = null;
  if (select.value) {
    try {
      info = (await ask(`info?model=${encodeURIComponent(select.value)}`)).data;
    } catch (refusal) {
      if (mine === newest && refusal.status !== 401) say($("model-error"), refusal.message);
    }
  }
  if (mine !== newest) return;
  chosen = info;
  describe();
  listeners.forEach((listener) => listener());
}

function describe() {
  const note = $("model-note");
  note.replaceChildren();
  if (!chosen) return;
  const labels = Object.values(chosen.model_type.classifier.id2label);
  const of = chosen.takes_pairs ? "text pairs" : "texts";
  note.append(`${many(labels.length, "label")}: `);
  labels.slice(0, 8).forEach((label, i) => note.append(i ? ", " : "", name(label)));
  if (labels.length > 8) note.append(`, and ${labels.length - 8} more`);
  note.append(
    `${chosen.is_multi_label ? " (a text can have several labels)" : ""} · ${of} of up to ${count(chosen.max_input_length)} tokens`,
  );
  say($("version"), `leantune ${chosen.version}`);
}

select.addEventListener("change", choose);
search.addEventListener("input", fill);
search.addEventListener("keydown", (event) => {
  const found = event.key === "Enter" && fill();
  if (found && found.length) {
    select.value = found[0];
    select.focus();
    choose();
  }
});
