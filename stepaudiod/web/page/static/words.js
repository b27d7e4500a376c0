// The texts of the page, in its language; `render.py` inserts them into the page.

export const say = JSON.parse(document.getElementById("words").textContent);

/** A text with its {placeholders} filled. */
export function tell(key, gaps = {}) {
  return say[key].replace(/\{(\w+)\}/g, (_, name) => gaps[name]);
}

/** An element: `make("a", {href}, "text", child)`. Texts are never read as HTML. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** A small button with a text. */
export function button(label, onclick, attributes = {}) {
  return make("button", { type: "button", class: "small", onclick, ...attributes }, label);
}

/** A text in which commands, between backticks, are code elements. */
export function withCode(text) {
  return text.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));
}

/** An element that the page leaves to its scripts. */
export const place = (name) => document.getElementById(name);

/** Live regions for screen readers: progress is polite, errors are assertive. */
export function note(where, text, isError = false) {
  const line = where.querySelector(isError ? "[role=alert]" : "[role=status]");
  const other = where.querySelector(isError ? "[role=status]" : "[role=alert]");
  if (other) other.textContent = "";
  line.replaceChildren(...withCode(text));
}

export function notes() {
  return [make("p", { role: "status", "aria-live": "polite" }), make("p", { role: "alert" })];
}
