// Unavailable features, and how to install them.

import { say } from "./words.js";

let missing = {};

/** `{need: {engine: how to install it}}`, from the daemon. */
export function startHints(table) {
  missing = table;
}

export const lacks = (need) => need in missing;

/** The installation hint of a feature, in the page's language if it has a translation. */
export function howTo(need) {
  const ways = Object.entries(missing[need] || {}).map(([engine, install]) => say.install[engine] || install);
  return ways.join(say.or);
}

/** All installation hints, without duplicates. */
export const wishes = () => [...new Set(Object.keys(missing).map(howTo))];
