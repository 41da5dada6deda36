/** A bar chart of label shares. */

import { element, name } from "./elements.js";

const SHOWN = 10;

/**
 * A list of labels with bars. The first ones are shown at once, all of them after a click.
 *
 * rows: [{label, share, value}] in display order; threshold: smallest share of a predicted label, or null.
 */
export function bars(rows, threshold = null) {
  const list = element("ol", "bars");
  const part = document.createDocumentFragment();
  part.append(list);
  list.append(...rows.slice(0, SHOWN).map((row, i) => bar(row, i === 0, threshold)));
  if (rows.length > SHOWN) {
    const more = element("button", "", `Show all ${rows.length}`);
    more.type = "button";
    more.addEventListener("click", () => {
      const rest = rows.slice(SHOWN).map((row) => bar(row, false, threshold));
      list.append(...rest);
      rest[0].tabIndex = -1; // let keyboard users continue at the first new bar
      rest[0].focus();
      more.remove();
    });
    part.append(element("p", "", more));
  }
  if (threshold !== null) {
    part.append(element("p", "note", element("span", "key-line"), `threshold ${threshold}`));
  }
  return part;
}

function bar({ label, share, value }, isFirst, threshold) {
  const fill = element("span", "fill");
  fill.style.inlineSize = `${100 * share}%`;
  const track = element("span", "track", fill);
  track.setAttribute("aria-hidden", "true");
  if (threshold !== null) {
    const line = element("span", "threshold");
    line.style.insetInlineStart = `${100 * threshold}%`;
    track.append(line);
  }
  const isHigh = threshold === null ? isFirst : share >= threshold;
  const item = element("li", isHigh ? "first" : "", name(label), track, element("span", "value", value));
  return item;
}
