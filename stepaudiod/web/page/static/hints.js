// What nothing here can do, and how to have it.

import { say } from "./words.js";

let missing = {};

/** `{need: {engine: how to install it}}`, as the daemon says it. */
export function startHints(table) {
  missing = table;
}

export const lacks = (need) => need in missing;

/** What to type to have something done, in the page's language where it knows the engine. */
export function howTo(need) {
  const ways = Object.entries(missing[need] || {}).map(([engine, install]) => say.install[engine] || install);
  return ways.join(say.or);
}

/** Every way there is to have more, once each. */
export const wishes = () => [...new Set(Object.keys(missing).map(howTo))];
