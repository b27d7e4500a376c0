// The fields that gradio draws, set from scripts. gradio takes values from the answer of a handler, so a
// script leaves them here and presses the hidden button whose handler fetches them.

let waiting = {};

/** Set fields: `set({speak_text: {value: "…"}})`; also `choices`, `interactive`, `info`. */
export function set(changes) {
  for (const [name, change] of Object.entries(changes)) waiting[name] = { ...waiting[name], ...change };
  document.getElementById("fill").click();
}

/** The hidden button's handler: one update a field, in the order asked for. */
export function filling(names) {
  const changes = waiting;
  waiting = {};
  return names.map((name) => ({ __type__: "update", ...changes[name] }));
}

const DRAFT = "stepaudiod-draft";

/** What was typed outlives a change of language and a reload, for as long as the tab lives. */
export function keep(name, value) {
  sessionStorage.setItem(DRAFT, JSON.stringify({ ...kept(), [name]: value }));
}

export function kept() {
  return JSON.parse(sessionStorage.getItem(DRAFT) || "{}");
}
