// The tab that speaks a text.

import { asCurl, asPython, askJson, readBody, speak as request } from "./api.js";
import { card, copy } from "./card.js";
import { keep, kept, set } from "./fields.js";
import { howTo, lacks } from "./hints.js";
import { remember } from "./history.js";
import { livePlayer, wholeWav } from "./sound.js";
import { button, make, note, notes, place, say, tell } from "./words.js";

let voices = [];
let work = null;
let live = null;
let onEdit = () => {};

/** The default voice: the serving engine's for the page's language, or the first that speaks it. */
function offered() {
  const language = document.documentElement.lang.slice(0, 2);
  const able = voices.filter((v) => v.locale.startsWith(language) || v.languages.includes(language));
  const ofBest = able.filter((v) => v.engine === able[0].engine);
  return ofBest.find((v) => v.locale.startsWith(language)) || ofBest[0] || voices[0];
}

/** Every voice of every engine, the serving engine first. A voice's value names both: `engine/voice`. */
export async function loadVoices() {
  const models = (await askJson("v1/models")).data.filter((model) => model.capabilities.speak && !model.stands_for);
  models.sort((one, other) => ("default" in other) - ("default" in one));
  const lists = await Promise.all(models.map((m) => askJson(`v1/voices?model=${encodeURIComponent(m.id)}`)));
  voices = lists.flatMap((list, i) => list.map((voice) => ({ ...voice, engine: models[i] })));
  const first = voices.find((v) => valueOf(v) === kept().speak_voice) || offered();
  const about = (v) => (v.prompt_text ? say.own_voice : say.speakers[v.description] || v.description);
  const choices = voices.map((v) => [`${v.name}: ${about(v)} (${v.engine.id})`, valueOf(v)]);
  set({ speak_voice: { choices, value: first ? valueOf(first) : null } });
  if (first) showVoice(valueOf(first));
  return voices;
}

const valueOf = (voice) => `${voice.engine.id}/${voice.id}`;
const voiceOf = (value) => voices.find((voice) => valueOf(voice) === value);

/** Handle a changed field; disable what the voice's engine doesn't support, with the reason. */
export function onField(name, value) {
  keep(name, value);
  if (name === "speak_voice") showVoice(value);
}

let shown = null;
let elsewhere = "";

function showVoice(value) {
  const voice = voiceOf(value);
  if (!voice || shown === voice) return;
  shown = voice;
  const edits = voice.engine.capabilities.edits;
  const none = [say.manner_none, ""];
  const able = edits.includes("emotion") || edits.includes("style");
  const choices = able ? ["emotion", "style"].filter((mode) => edits.includes(mode)).flatMap(mannersOf) : [];
  const reason = lacks("emotion") ? `${say.cannot} ${howTo("emotion")}` : tell("manner_elsewhere", { models: elsewhere });
  set({
    speak_manner: { choices: [none, ...choices], value: "", interactive: able, info: able ? say.manner_hint : reason },
    speak_language: { interactive: voice.engine.capabilities.clone, value: "" },
  });
}

function mannersOf(mode) {
  const names = Object.entries(say.options[mode]).filter(([name]) => name !== "remove");
  return names.map(([name, text]) => [text, name.replace("_", " ")]);
}

/** The button's handler. */
export async function speak(text, value, manner, language, speed, format, seed) {
  const where = place("speak_result");
  if (!text?.trim()) return note(where, say.need_text, true);
  const voice = voiceOf(value);
  if (!voice) return note(where, `${say.need_voice} ${howTo("speak")}`, true);
  const wanted = { model: voice.engine.id, voice: voice.id, input: text, response_format: format, speed };
  if (manner) wanted.instructions = manner;
  if (language) wanted.language = language;
  if (seed != null) wanted.seed = seed;
  stop();
  const mine = (work = new AbortController());
  note(where, say.working);
  try {
    const sound = await render(wanted, mine.signal, where);
    if (work !== mine) return;
    place("speak_card").replaceChildren(withCopies(wanted, sound));
    await remember(sound);
  } catch (error) {
    live?.stop();
    if (work !== mine && error.name === "AbortError") return;
    note(where, error.name === "AbortError" ? say.stopped : error.message, error.name !== "AbortError");
  }
}

/** Generate the audio, and play it from its first chunk on. */
async function render(wanted, signal, where) {
  const response = await request(wanted, signal);
  const pieces = await listen(response, wanted.response_format, where);
  const type = response.headers.get("content-type");
  const blob = wanted.response_format === "wav" ? wholeWav(pieces) : new Blob(pieces, { type });
  const label = wanted.input.length > 60 ? `${wanted.input.slice(0, 60)} …` : wanted.input;
  return { blob, label, text: wanted.input, kind: "speech", format: wanted.response_format };
}

/** Play a response while it arrives, and show the progress; returns its chunks. */
async function listen(response, format, where) {
  const player = (live = livePlayer(format));
  const pieces = await readBody(response, (piece) => {
    player.push(piece);
    if (player.made_s) note(where, tell("made", { s: player.made_s.toFixed(1) }));
  });
  await player.finish();
  note(where, tell("done", { s: player.made_s.toFixed(1) }));
  return pieces;
}

function withCopies(wanted, sound) {
  const copies = (write) => async () => {
    await copy(write(wanted));
    note(place("speak_result"), say.copied);
  };
  const shown = card(sound, [
    [say.edit_this, () => onEdit(sound)],
    [say.copy_curl, copies(asCurl)],
    [say.copy_python, copies(asPython)],
  ]);
  shown.querySelector("audio").addEventListener("play", () => live?.stop());  // not both at once
  return shown;
}

/** Stop the generation, also in the worker, and the playback. */
export function stop() {
  live?.stop();
  work?.abort();
  work = null;
  place("speak_card").querySelector("audio")?.pause();
}

/** The stop button's handler. */
export function stopSpeaking() {
  const wasWorking = work && !work.signal.aborted;
  stop();
  if (wasWorking) note(place("speak_result"), say.stopped);
}

/** Play a voice's sample; `where` shows the progress. */
export async function hear(value, where = place("speak_result")) {
  const voice = value ? voiceOf(value) : shown;
  if (!voice) return note(where, `${say.need_voice} ${howTo("speak")}`, true);
  const input = voice.locale.startsWith("zh") ? "你好，很高兴认识你。" : "Hello, nice to meet you.";
  stop();
  const mine = (work = new AbortController());
  note(where, say.working);
  try {
    const wanted = { model: voice.engine.id, voice: voice.id, input, response_format: "wav" };
    await listen(await request(wanted, mine.signal), "wav", where);
  } catch (error) {
    if (error.name !== "AbortError") note(where, error.message, true);
  }
}

/** Build the tab. */
export async function startSpeak(tags, edit) {
  elsewhere = tags.models.emotion.join(say.and);
  onEdit = edit;
  place("speak_more").replaceChildren(button(say.hear, () => hear()));
  place("speak_result").replaceChildren(...notes(), make("div", { id: "speak_card" }));
  const { speak_text = say.sample, speak_speed, speak_format, speak_seed } = kept();
  const drafts = { speak_text, speak_speed, speak_format, speak_seed };
  set(Object.fromEntries(Object.entries(drafts).filter(([, v]) => v != null).map(([n, value]) => [n, { value }])));
  return loadVoices();
}
