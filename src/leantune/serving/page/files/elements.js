/** Elements of the page, by their id; and new ones, whose texts are only ever texts. */

export const $ = (id) => document.getElementById(id);

/** An element with a class, and children, of which strings become texts. */
export function element(tag, className = "", ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** A name that may be of any script, and does not disturb the direction of what is around it. */
export const name = (text) => element("bdi", "", text);

/** Put a text where it is not yet: a screen reader says what was put. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
