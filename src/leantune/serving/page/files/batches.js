/** Classification of many texts with POST /predict, two requests at a time, with retries. */

import { ask, Refusal } from "./server.js";

const BATCH_ROWS = 64;
const BATCH_CHARACTERS = 400_000;
const IN_FLIGHT = 2;
const NOT_READY_TRIES = 60;
const REFUSED_AT_FIRST = 3;

/**
 * Classify the texts at the given places and report each once.
 *
 * inputsOf(place): returns a list of one or two texts. onRows([[place, label, score]]): called with results.
 * onRefused(place, message): called for a text that the server refuses. onWait(seconds, message): called before a retry
 * with the delay, and with 0 after it. signal: aborts the work. Throws a Refusal if the work cannot continue.
 */
export async function classifyAll({ places, model, inputsOf, onRows, onRefused, onWait, signal }) {
  let next = 0;
  let size = BATCH_ROWS;
  let numAnswered = 0;
  let numRefused = 0;
  let numNotReady = 0;
  const again = [];
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);

  function take() {
    if (again.length) return again.pop();
    const batch = [];
    for (let characters = 0; next < places.length && batch.length < size; next++) {
      const inputs = inputsOf(places[next]);
      if (inputs.every((text) => !text)) { // the server would refuse the whole batch
        onRefused(places[next], "This row has no text.");
        continue;
      }
      characters += inputs.reduce((sum, text) => sum + text.length, 0);
      if (batch.length && characters > BATCH_CHARACTERS) break;
      batch.push(places[next]);
    }
    return batch.length ? batch : null;
  }

  async function tryOne(batch) {
    try {
      const body = { inputs: batch.map(inputsOf), model, parameters: { top_k: 1 } };
      const { data } = await ask("predict", { body, signal: either });
      numAnswered += batch.length;
      numNotReady = 0;
      onWait(0);
      onRows(batch.map((place, i) => [place, data[i][0].label, data[i][0].score]));
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      await handle(batch, refusal);
    }
  }

  async function handle(batch, refusal) {
    let { status } = refusal;
    if (status === 0 && (await isThere(either))) status = 413; // the server closes the connection if a body is too large
    if (status === 429 || (status === 503 && numNotReady++ < NOT_READY_TRIES)) {
      again.push(batch);
      onWait(refusal.retryAfter, refusal.message);
      await pause(refusal.retryAfter, either);
    } else if ([413, 422, 504].includes(status) && batch.length > 1) {
      const half = batch.length >> 1;
      if (status !== 422) size = Math.max(1, Math.min(size, half));
      again.push(batch.slice(half), batch.slice(0, half));
    } else if ((status === 413 || status === 422) && (numAnswered || numRefused < REFUSED_AT_FIRST - 1)) {
      numRefused++;
      onRefused(batch[0], refusal.status ? refusal.message : "This text is too large for the server.");
    } else {
      throw refusal;
    }
  }

  async function work() {
    try {
      for (let batch = take(); batch && !either.aborted; batch = take()) await tryOne(batch);
    } catch (error) {
      stop.abort();
      if (error.name !== "AbortError") throw error;
    }
  }

  const ended = await Promise.allSettled(Array.from({ length: IN_FLIGHT }, work));
  const failed = ended.find((each) => each.status === "rejected");
  if (failed) throw failed.reason;
}

async function isThere(signal) {
  try {
    await ask("stats", { signal });
    return true;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return false;
  }
}

function pause(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
