/** Server activity of the last two minutes, derived from the totals at /stats. */

import { $, say } from "./elements.js";
import { ask } from "./server.js";
import { count, many, milliseconds, rate } from "./words.js";

const EVERY_MS = 2_000;
const SHOWN_MS = 120_000;
const MEAN_OVER_MS = 10_000;
const WIDTH = 240;
const HEIGHT = 64;
const SVG = "http://www.w3.org/2000/svg";

/** [{time, stats}]; stats is null if the server did not answer, and after the page was hidden. */
let samples = [];
let timer = null;

/** Poll /stats while the page is visible, and call `listener` with the result, or null without an answer. */
export function watch(listener) {
  async function look() {
    let stats = null;
    try {
      stats = (await ask("stats", { signal: AbortSignal.timeout(10_000) })).data;
    } catch {
      // the listener reports it
    }
    samples.push({ time: Date.now(), stats });
    samples = samples.filter((each) => each.time > Date.now() - SHOWN_MS - EVERY_MS);
    show();
    listener(stats);
    if (!document.hidden) timer = setTimeout(look, EVERY_MS);
  }
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) return;
    samples.push({ time: Date.now(), stats: null });
    look();
  });
  look();
}

/** Rate and latency between two samples, or null if one is missing or the server was restarted. */
function between(before, after) {
  if (!before?.stats || !after?.stats || after.stats.requests < before.stats.requests) return null;
  const requests = after.stats.requests - before.stats.requests;
  const seconds = (after.time - before.time) / 1000;
  return {
    time: after.time,
    rate: requests / seconds,
    latency: requests ? (1000 * (after.stats.seconds - before.stats.seconds)) / requests : null,
  };
}

function show() {
  const points = samples.slice(1).map((each, i) => between(samples[i], each) ?? { time: each.time, rate: null, latency: null });
  const last = samples.at(-1);
  const begin = samples.findLast((each) => each.time <= last.time - MEAN_OVER_MS && each.stats) ?? samples.find((each) => each.stats);
  const now = begin === last ? null : between(begin, last);
  const most = (field) => Math.max(0, ...points.map((each) => each[field] ?? 0));

  say($("live-rate"), now ? rate(now.rate) : "–");
  say($("live-rate-note"), `maximum ${rate(most("rate"))} in the last 2 min`);
  say($("live-latency"), now?.latency == null ? "–" : milliseconds(now.latency));
  say($("live-latency-note"), most("latency") ? `maximum ${milliseconds(most("latency"))} in the last 2 min` : "no requests in the last 2 min");
  draw($("chart-rate"), points, "rate", last.time, 1);
  draw($("chart-latency"), points, "latency", last.time, 1);
  $("chart-rate").setAttribute("aria-label", `Requests per second in the last two minutes: now ${$("live-rate").textContent}, ${$("live-rate-note").textContent}`);
  $("chart-latency").setAttribute("aria-label", `Mean latency in the last two minutes: now ${$("live-latency").textContent}, ${$("live-latency-note").textContent}`);

  const stats = last.stats;
  say($("live-waiting"), stats ? count(stats.waiting_requests) : "–");
  say($("live-waiting-note"), stats ? `${many(stats.waiting_tokens, "token")} waiting · ${many(stats.in_flight, "request")} in progress` : "");
  say($("live-total"), stats ? `${many(stats.texts, "text")} in ${many(stats.requests, "request")} since the server started` : "");
}

/** Draw a field of the points with gaps where it is null. `least` is the smallest upper end of the y axis. */
function draw(chart, points, field, now, least) {
  const top = Math.max(least, ...points.map((each) => each[field] ?? 0));
  const x = (time) => (WIDTH * (1 - (now - time) / SHOWN_MS)).toFixed(1);
  const y = (value) => (HEIGHT - (HEIGHT - 2) * (value / top)).toFixed(1);
  const pieces = [[]];
  for (const point of points) {
    if (point[field] === null) pieces.push([]);
    else if (point.time >= now - SHOWN_MS) pieces.at(-1).push(point);
  }
  const drawn = pieces.filter((piece) => piece.length);
  const line = (piece) => piece.map((each) => `${x(each.time)},${y(each[field])}`).join("L");
  const lines = drawn.map((piece) => `M${line(piece)}${piece.length === 1 ? "h0" : ""}`);
  const areas = drawn.map((piece) => `M${x(piece[0].time)},${HEIGHT}L${line(piece)}L${x(piece.at(-1).time)},${HEIGHT}Z`);
  chart.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  chart.setAttribute("preserveAspectRatio", "none");
  chart.replaceChildren(path(areas.join(""), "area"), path(`M0,${HEIGHT}H${WIDTH}`, "base"), path(lines.join(""), "curve"));
}

function path(shape, className) {
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("d", shape);
  made.setAttribute("class", className);
  return made;
}
