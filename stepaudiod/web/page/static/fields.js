// Setting gradio's fields from scripts. gradio takes values from the result of a handler, so a
// script stores them here and clicks the hidden button, whose handler returns them.

let waiting = {};

/** Set fields: `set({speak_text: {value: "…"}})`; also `choices`, `interactive`, `info`. */
export function set(changes) {
  for (const [name, change] of Object.entries(changes)) waiting[name] = { ...waiting[name], ...change };
  document.getElementById("fill").click();
}

/** The hidden button's handler: returns one update per field, in the requested order. */
export function filling(names) {
  const changes = waiting;
  waiting = {};
  return names.map((name) => ({ __type__: "update", ...changes[name] }));
}

const DRAFT = "stepaudiod-draft";

/** Typed texts are kept across reloads and changes of language, until the tab is closed. */
export function keep(name, value) {
  sessionStorage.setItem(DRAFT, JSON.stringify({ ...kept(), [name]: value }));
}

export function kept() {
  return JSON.parse(sessionStorage.getItem(DRAFT) || "{}");
}
