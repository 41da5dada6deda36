/** Access to elements by id, and creation of elements without parsing HTML. */

export const $ = (id) => document.getElementById(id);

/** Create an element with a class and children. Strings become text nodes. */
export function element(tag, className = "", ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Create an element for a name whose writing direction is isolated from the text around it. */
export const name = (text) => element("bdi", "", text);

/** Set a text if it differs, so that screen readers announce only changes. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
