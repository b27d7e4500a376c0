// What was made in this window, kept in this browser alone and removed after a while.

import { card } from "./card.js";
import { button, make, place, say, tell } from "./words.js";

const SESSION = (sessionStorage.session ||= crypto.getRandomValues(new Uint32Array(2)).join("-"));
let keep_s = 3600;
let onEdit = () => {};

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** The browser's database; each entry knows the window it was made in. */
async function store(mode) {
  const request = indexedDB.open("stepaudiod", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("sounds", { keyPath: "id", autoIncrement: true });
  return (await done(request)).transaction("sounds", mode).objectStore("sounds");
}

const entries = async () => done((await store("readonly")).getAll());

/** Keep a sound. */
export async function remember(sound) {
  await done((await store("readwrite")).add({ ...sound, session: SESSION, time: Date.now() }));
  await show();
}

async function remove(isMeant) {
  for (const entry of await entries()) {
    if (isMeant(entry)) await done((await store("readwrite")).delete(entry.id));
  }
}

/** Whoever made it and left: what is too old goes. */
async function tidy() {
  const oldest = Date.now() - 1000 * keep_s;
  const before = (await entries()).length;
  await remove((entry) => entry.time < oldest);
  return before !== (await entries()).length;
}

async function show() {
  const own = (await entries()).filter((entry) => entry.session === SESSION).reverse();
  const keeping = tell("history_keep", { minutes: Math.round(keep_s / 60) });
  const clear = button(say.history_clear, async () => {
    await remove((entry) => entry.session === SESSION);
    await show();
  });
  place("history").replaceChildren(
    make("p", {}, keeping),
    own.length ? clear : make("p", {}, say.history_empty),
    ...own.map((entry) =>
      card(entry, [
        [say.edit_this, () => onEdit(entry)],
        [say.remove, async () => { await remove((other) => other.id === entry.id); await show(); }],
      ]),
    ),
  );
}

/** Show it, and go on removing what is too old. */
export async function startHistory(seconds, edit) {
  keep_s = seconds;
  onEdit = edit;
  await tidy();
  await show();
  setInterval(async () => { if (await tidy()) await show(); }, 1000 * Math.min(60, keep_s / 4));
}
