/** Entry point of the page: its parts, the API key and the server state. */

import { loadClassifiers } from "./classifier.js";
import { $, say } from "./elements.js";
import "./file.js";
import { watch } from "./live.js";
import { ask, key } from "./server.js";
import "./text.js";
import { many } from "./words.js";

const state = $("server-state");
let numModels = null;

function askForKey(wasWrong) {
  key.forget();
  $("forget-key-item").hidden = true;
  const isNew = $("key-form").hidden;
  $("key-form").hidden = false;
  say($("key-error"), wasWrong ? "The server rejected this key." : "");
  if (isNew || wasWrong) $("key").focus();
}

async function useKey(event) {
  event.preventDefault();
  key.set($("key").value.trim());
  try {
    await ask("v1/models");
  } catch (refusal) {
    if (refusal.status !== 401) say($("key-error"), refusal.message);
    return;
  }
  $("key").value = "";
  $("key-form").hidden = true;
  $("forget-key-item").hidden = false;
  await loadClassifiers();
  $("text").focus();
}

/** Show the server state from the answer of /stats, or null without an answer. */
function showState(stats) {
  state.classList.toggle("ready", Boolean(stats?.is_ready));
  state.classList.toggle("bad", !stats?.is_ready);
  if (!stats) {
    say(state, "The server does not answer");
    numModels = null;
    return;
  }
  say(state, stats.is_ready ? `Ready · ${many(stats.models, "classifier")}` : "Not ready");
  if (stats.needs_key && !key.get()) {
    if ($("key-form").hidden) askForKey(false);
    numModels = null;
    return;
  }
  $("forget-key-item").hidden = !stats.needs_key;
  if (stats.models !== numModels) {
    numModels = stats.models;
    loadClassifiers();
  }
}

key.whenRefused(askForKey);
$("key-form").addEventListener("submit", useKey);
$("forget-key").addEventListener("click", () => askForKey(false));
watch(showState);
