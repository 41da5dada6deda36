/** Formatting of numbers. */

const NO_BREAK = "\u00a0";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** `12,345` */
export const count = (number) => whole.format(number);

/** `1 row`, `12 rows` */
export const many = (number, noun) => `${count(number)}${NO_BREAK}${noun}${number === 1 ? "" : "s"}`;

/** `96.3 %`; shares close to 0 and 1 are not rounded to 0 % or 100 %. */
export function percent(share) {
  if (share > 0 && share < 0.0005) return `<${NO_BREAK}0.1${NO_BREAK}%`;
  if (share < 1 && share >= 0.9995) return `>${NO_BREAK}99.9${NO_BREAK}%`;
  return `${(100 * share).toFixed(1)}${NO_BREAK}%`;
}

/** `0`, `0.4`, `12` */
export const rate = (number) => (number === 0 || number >= 9.95 ? count(number) : number.toFixed(1));

/** `850 ms` or `1.2 s` */
export function milliseconds(number) {
  if (number < 1) return `<${NO_BREAK}1${NO_BREAK}ms`;
  if (number >= 1000) return `${(number / 1000).toFixed(1)}${NO_BREAK}s`;
  return `${number < 9.95 && !Number.isInteger(number) ? number.toFixed(1) : count(number)}${NO_BREAK}ms`;
}

/** `42 s`, `3 min 12 s` or `2 h 05 min` */
export function duration(seconds) {
  const all = Math.max(1, Math.round(seconds));
  if (all < 60) return `${all}${NO_BREAK}s`;
  const minutes = Math.floor(all / 60);
  if (minutes < 60) return `${minutes}${NO_BREAK}min ${all % 60}${NO_BREAK}s`;
  return `${Math.floor(minutes / 60)}${NO_BREAK}h ${String(minutes % 60).padStart(2, "0")}${NO_BREAK}min`;
}

/** Cut a text to at most `limit` characters. */
export const shortened = (text, limit) => (text.length <= limit ? text : `${text.slice(0, limit - 1)}…`);
