// The results of this window, stored only in this browser and removed after some time.

import { card } from "./card.js";
import { button, make, place, say, tell } from "./words.js";

const SESSION = (sessionStorage.session ||= crypto.getRandomValues(new Uint32Array(2)).join("-"));
let keep_s = 3600;
let onEdit = () => {};
const cards = new Map();

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** The browser's database; each entry has the id of its window. */
async function store(mode) {
  const request = indexedDB.open("stepaudiod", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("sounds", { keyPath: "id", autoIncrement: true });
  return (await done(request)).transaction("sounds", mode).objectStore("sounds");
}

const entries = async () => done((await store("readonly")).getAll());

/** Store a result. */
export async function remember(sound) {
  await done((await store("readwrite")).add({ ...sound, session: SESSION, time: Date.now() }));
  await show();
}

async function remove(isMeant) {
  for (const entry of await entries()) {
    if (isMeant(entry)) await done((await store("readwrite")).delete(entry.id));
  }
}

/** Remove expired results of all windows. */
async function tidy() {
  const oldest = Date.now() - 1000 * keep_s;
  const before = (await entries()).length;
  await remove((entry) => entry.time < oldest);
  return before !== (await entries()).length;
}

/** Remove results, and keep the keyboard focus. */
async function removeAndShow(isMeant) {
  await remove(isMeant);
  await show();
  (place("history").querySelector(".card button") || place("history_heading")).focus();
}

const cardOf = (entry) =>
  card(entry, [
    [say.edit_this, () => onEdit(entry)],
    [say.remove, () => removeAndShow((other) => other.id === entry.id)],
  ]);

/** Show the newest first. Existing cards are not replaced, since one may be playing. */
async function show() {
  const own = (await entries()).filter((entry) => entry.session === SESSION);
  const ids = new Set(own.map((entry) => entry.id));
  for (const [id, element] of cards) {
    if (!ids.has(id)) {
      element.remove();
      cards.delete(id);
    }
  }
  for (const entry of own.filter(({ id }) => !cards.has(id))) {
    const element = cardOf(entry);
    cards.set(entry.id, element);
    place("history_cards").prepend(element);
  }
  place("history_empty").hidden = own.length > 0;
  place("history_clear").hidden = own.length === 0;
}

/** Show the history, and remove expired results regularly. */
export async function startHistory(seconds, edit) {
  keep_s = seconds;
  onEdit = edit;
  const clear = () => removeAndShow((entry) => entry.session === SESSION);
  place("history").replaceChildren(
    make("h2", { id: "history_heading", tabindex: -1 }, say.history),
    make("p", {}, tell("history_keep", { minutes: Math.round(keep_s / 60) })),
    make("p", { id: "history_empty" }, say.history_empty),
    button(say.history_clear, clear, { id: "history_clear" }),
    make("div", { id: "history_cards" }),
  );
  await tidy();
  await show();
  setInterval(async () => { if (await tidy()) await show(); }, 1000 * Math.min(60, keep_s / 4));
}
