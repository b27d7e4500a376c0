// The tab of voices made from recordings.

import { ask, askJson, form } from "./api.js";
import { addressOf } from "./card.js";
import { set } from "./fields.js";
import { howTo, lacks } from "./hints.js";
import { hear, loadVoices } from "./speak.js";
import { fileButton, sourcePicker } from "./source.js";
import { button, make, note, notes, place, say, tell, withCode } from "./words.js";

const VOICES = "v1/audio/voices";
const EXPORT = "stepaudiod voice 1";
let sample = null;

const where = () => place("voice_result");
const complain = (error) => note(where(), error.message ?? error, true);

async function list() {
  const { data } = await askJson(`${VOICES}`);
  return data.filter((voice) => voice.type === "audio_sample");
}

/** Run a button's action, and show its error. */
const act = (work) => async () => {
  try {
    await work();
  } catch (error) {
    complain(error);
  }
};

/** Show the voices; `speaking` has the selectable voices, if they are already known. */
async function show(speaking) {
  const own = await list();
  speaking ||= await loadVoices();
  const rows = own.map((voice) => {
    const speaker = speaking.find((each) => each.id === voice.id);
    const player = make("audio", { controls: true, preload: "none", src: `${VOICES}/${voice.id}/recording`, "aria-label": voice.name });
    return make(
      "article", { class: "card" },
      make("h3", {}, voice.name),
      make("p", {}, voice.transcript),
      player,
      make("div", { class: "actions" },
        speaker ? button(say.try, () => hear(`${speaker.engine.id}/${voice.id}`, where())) : null,
        button(say.rename, act(() => rename(voice))),
        button(say.export, act(() => exportVoice(voice))),
        button(say.delete, act(() => remove(voice))),
      ),
    );
  });
  const importing = make("input", { type: "file", id: "voice_import", accept: ".json,application/json" });
  importing.addEventListener("change", act(() => importVoice(importing.files[0])));
  const cannot = lacks("clone") && own.length ? make("p", {}, ...withCode(tell("cannot_speak_own", { why: howTo("clone") }))) : null;
  place("voices_list").replaceChildren(
    make("h2", { tabindex: -1 }, say.your_voices),
    ...(cannot ? [cannot] : []),
    ...(rows.length ? rows : [make("p", {}, say.no_voices)]),
    make("div", { class: "actions" }, fileButton(say.import, importing)),
  );
}

function create(voice, recording) {
  const { name, transcript, consent, description, language, gender } = voice;
  const body = form({ name, transcript, consent, description, language, gender, audio_sample: recording });
  return askJson(VOICES, { method: "POST", body });
}

/** The button's handler. */
export async function addVoice(name, transcript, speaker, agreed) {
  if (!sample) return complain(say.need_recording);
  if (!agreed) return complain(say.consent_need);
  note(where(), say.working);
  try {
    const consent = speaker?.trim() || say.consent;
    const voice = await create({ name, transcript, consent }, sample);
    note(where(), tell("added", { name: voice.name }));
    sample = null;
    place("voice_file").value = "";
    set({ voice_name: { value: "" }, voice_transcript: { value: "" }, voice_who: { value: "" }, voice_consent: { value: false } });
    await show();
  } catch (error) {
    complain(error);
  }
}

async function recordingOf(voice) {
  const response = await ask(`${VOICES}/${voice.id}/recording`);
  const blob = await response.blob();
  const suffix = { "audio/mpeg": "mp3", "audio/ogg": "ogg", "audio/flac": "flac", "video/webm": "webm", "audio/webm": "webm" }[blob.type] || "wav";
  return new File([blob], `reference.${suffix}`, { type: blob.type });
}

/** The id is made from the name, so renaming makes a new voice from the old recording. */
async function rename(voice) {
  const name = prompt(say.new_name, voice.name)?.trim();
  if (!name || name === voice.name) return;
  await create({ ...voice, name }, await recordingOf(voice));
  await ask(`${VOICES}/${voice.id}`, { method: "DELETE" });
  await show();
}

async function remove(voice) {
  if (!confirm(tell("sure", { name: voice.name }))) return;
  await ask(`${VOICES}/${voice.id}`, { method: "DELETE" });
  await show();
  place("voices_list").querySelector("h2").focus();
}

async function exportVoice(voice) {
  const recording = await recordingOf(voice);
  const address = await new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.readAsDataURL(recording);
  });
  const text = JSON.stringify({ kind: EXPORT, ...voice, recording: address, filename: recording.name });
  const link = make("a", { download: `${voice.id}.voice.json` });
  link.href = addressOf(new Blob([text], { type: "application/json" }), link);
  link.click();
}

async function importVoice(file) {
  const voice = await file.text().then(JSON.parse).catch(() => ({}));
  if (voice.kind !== EXPORT) throw new Error(say.import_wrong);
  const blob = await (await fetch(voice.recording)).blob();
  const made = await create(voice, new File([blob], voice.filename, { type: blob.type }));
  note(where(), tell("added", { name: made.name }));
  await show();
}

/** Build the tab. */
export async function startVoices(speaking) {
  place("voice_result").replaceChildren(...notes());
  const take = (file) => {
    sample = file;
    note(where(), file.name);
  };
  place("voice_source").replaceChildren(make("h2", {}, say.add_voice), sourcePicker("voice_file", say.sample_recording, take, complain));
  await show(speaking);
}
