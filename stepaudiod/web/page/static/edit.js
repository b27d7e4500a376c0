// A recording to another one, as a chain of steps that can be walked back.

import { edit as request, readBody, transcribe } from "./api.js";
import { card } from "./card.js";
import { set } from "./fields.js";
import { remember } from "./history.js";
import { secondsOf, wholeWav } from "./sound.js";
import { sourcePicker } from "./source.js";
import { button, make, note, notes, place, say, tell } from "./words.js";

/** Each step: `{blob, label, transcript}`. The last shown one is the next edit's input. */
let steps = [];
let at = -1;
let work = null;
let able = {};
let missing = {};
let canTranscribe = false;

/** Begin a new chain with a recording. */
export async function takeRecording(blob, label, transcript = "") {
  stop();
  steps = [{ blob, label, transcript }];
  at = 0;
  draw();
  place("edit_card").replaceChildren();
  set({ edit_transcript: { value: transcript }, edit_text: { value: transcript } });
  if (transcript) return;
  const where = place("edit_source");
  if (!canTranscribe) return note(where, say.no_transcriber);
  note(where, say.listening);
  const step = steps[0];
  try {
    const text = await transcribe(blob);
    if (steps[0] !== step || step.transcript) return;
    step.transcript = text;
    set({ edit_transcript: { value: text }, ...(isEmpty("edit_text") && { edit_text: { value: text } }) });
    note(where, "");
  } catch (error) {
    note(where, error.message, true);
  }
}

/** Whether nobody has typed into a field yet. */
const isEmpty = (name) => !document.querySelector(`#${name} textarea`).value;

export function keepTranscript(text) {
  if (steps[at]) steps[at].transcript = text;
}

/** The chain: every step can become the input again. */
function draw() {
  const step = (each, i) =>
    button(`${i + 1}. ${each.label}`, () => goTo(i), { "aria-current": i === at ? "step" : null });
  place("edit_chain").replaceChildren(
    ...(steps.length > 1 ? [make("p", { class: "name" }, say.chain), ...steps.map(step), button(say.back, () => goTo(at - 1), { id: "edit_back", disabled: at === 0 })] : []),
  );
  if (steps[at]) place("edit_before").replaceChildren(card({ ...steps[at], kind: "before" }));
}

function goTo(i) {
  at = i;
  place("edit_card").replaceChildren();
  set({ edit_transcript: { value: steps[at].transcript } });
  draw();
}

/** Grey what nothing here can do, and say how to have it. */
function greyTasks() {
  for (const input of document.querySelectorAll("#edit_task input")) {
    input.disabled = !able[input.value];
    input.closest("label").classList.toggle("greyed", input.disabled);
    if (input.disabled) input.setAttribute("aria-describedby", "edit_missing");
  }
}

/** Show the choices of a task, and its line of explanation. */
export function showTask(task) {
  for (const part of document.querySelectorAll("#panel_edit .of, .of")) part.hidden = !part.classList.contains(`of-${task}`);
  place("edit_explained").textContent = say[`about_${task}`];
  greyTasks();
}

/** The button's handler. */
export async function edit(transcript, task, emotion, style, speed, text, intensity, iterations, seed) {
  const where = place("edit_result");
  if (at < 0) return note(where, say.need_recording, true);
  if (!able[task]) return note(where, `${say.cannot} ${missing[task]}`, true);
  const info = { emotion, style, speed }[task];
  const hasStrength = (task === "emotion" || task === "style") && info !== "remove";
  const fields = { file: steps[at].blob, mode: task, edit_info: info, transcript, iterations, seed, response_format: "wav" };
  if (task === "paralinguistic") fields.text = text;
  if (hasStrength) fields.intensity = intensity;
  stop();
  const mine = (work = new AbortController());
  note(where, say.working);
  try {
    const pieces = await readBody(await request(fields, mine.signal));
    if (work !== mine) return;
    const label = info ? say.options[task][info] : say[`task_${task}`];
    const sound = { blob: wholeWav(pieces), label, kind: task, format: "wav" };
    await take({ ...sound, text: task === "paralinguistic" ? text : transcript });
    note(where, tell("done", { s: (await secondsOf(sound.blob)).toFixed(1) }));
  } catch (error) {
    if (work !== mine && error.name === "AbortError") return;
    note(where, error.name === "AbortError" ? say.stopped : error.message, error.name !== "AbortError");
  }
}

/** Before and after, side by side; the result can become the next input. */
async function take(sound) {
  const goOn = () => {
    steps = [...steps.slice(0, at + 1), { blob: sound.blob, label: sound.label, transcript: sound.text }];
    goTo(steps.length - 1);
  };
  const before = card({ ...steps[at], label: `${say.before}: ${steps[at].label}`, kind: "before" });
  const after = card({ ...sound, label: `${say.after}: ${sound.label}` }, [[say.use, goOn]]);
  place("edit_card").replaceChildren(make("div", { class: "pair" }, before, after));
  await remember(sound);
}

export function stop() {
  work?.abort();
  work = null;
}

/** The stop button's handler. */
export function stopEditing() {
  if (!work) return;
  stop();
  note(place("edit_result"), say.stopped);
}

/** Put a sound where the cursor is. */
function insert(tag) {
  const field = document.querySelector("#edit_text textarea");
  field.focus();
  field.setRangeText(`[${tag}]`, field.selectionStart, field.selectionEnd, "end");
  field.dispatchEvent(new InputEvent("input", { bubbles: true }));
}

/** Build the tab. */
export function startEdit(tags, transcriber) {
  able = Object.fromEntries(Object.entries(tags.models).map(([mode, names]) => [mode, names.length > 0]));
  missing = tags.missing;
  canTranscribe = transcriber;
  const where = place("edit_source");
  const picker = sourcePicker("edit_file", say.source, (file) => takeRecording(file, file.name), (text) => note(where, text, true));
  where.replaceChildren(picker, ...notes(), make("div", { id: "edit_chain", class: "actions" }), make("div", { id: "edit_before" }));
  const reasons = new Map();
  for (const [mode, why] of Object.entries(missing)) {
    if (`task_${mode}` in say) reasons.set(why, [...(reasons.get(why) || []), say[`task_${mode}`]]);
  }
  const lines = [...reasons].map(([why, modes]) => make("li", {}, `${modes.join(", ")}: ${why}`));
  place("edit_about").replaceChildren(
    make("p", { id: "edit_explained" }),
    make("div", { id: "edit_missing" }, ...(lines.length ? [make("p", {}, say.cannot), make("ul", {}, ...lines)] : [])),
  );
  place("edit_sounds").replaceChildren(
    make("div", { class: "actions", role: "group", "aria-label": say.insert },
      ...Object.entries(say.options.paralinguistic).map(([tag, text]) => button(text, () => insert(tag), { title: `[${tag}]` }))),
  );
  place("edit_result").replaceChildren(...notes(), make("div", { id: "edit_card" }));
  const first = Object.keys(able).find((mode) => able[mode]);
  if (first && !able.emotion) document.querySelector(`#edit_task input[value="${first}"]`)?.click();
  showTask(able.emotion ? "emotion" : first || "emotion");
}
