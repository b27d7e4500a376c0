// The tab that edits a recording, as a chain of steps that can be undone.

import { clone, edit as change, readBody, transcribe } from "./api.js";
import { card } from "./card.js";
import { set } from "./fields.js";
import { howTo, lacks } from "./hints.js";
import { remember } from "./history.js";
import { secondsOf, wavMeter, wholeWav } from "./sound.js";
import { sourcePicker } from "./source.js";
import { button, make, note, notes, place, say, tell, withCode } from "./words.js";

/** Each step: `{blob, label, transcript}`. The shown step is the input of the next edit. */
let steps = [];
let at = -1;
let work = null;

/** The engine feature that each task needs, if it isn't the edit of the same name. */
const NEEDS = { clone: ["clone"], clone_emotion: ["clone", "emotion"], clone_style: ["clone", "style"] };
const lackOf = (task) => (NEEDS[task] || [task]).find(lacks);
const tasks = () => [...document.querySelectorAll("#edit_task input")];

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
  if (lacks("transcribe")) return note(where, `${say.no_transcriber} ${howTo("transcribe")}`);
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

/** Whether the user has not typed into a field yet. */
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

/** Disable unavailable tasks, and show how to install them. */
function greyTasks() {
  for (const input of tasks()) {
    input.disabled = !!lackOf(input.value);
    input.closest("label").classList.toggle("greyed", input.disabled);
    if (input.disabled) input.setAttribute("aria-describedby", "edit_missing");
  }
}

/** Show the options of a task, and its description. */
export function showTask(task) {
  for (const part of document.querySelectorAll("#panel_edit .of, .of")) part.hidden = !part.classList.contains(`of-${task}`);
  place("edit_explained").textContent = say[`about_${task}`];
  greyTasks();
}

/** The start button's handler; `given` has the fields' values in their order on the page. */
export async function edit(...given) {
  const [transcript, task, emotion, style, speed, clone_emotion, clone_style, text, words, intensity, iterations, seed] = given;
  const where = place("edit_result");
  if (at < 0) return note(where, say.need_recording, true);
  if (lackOf(task)) return note(where, `${say.cannot} ${howTo(lackOf(task))}`, true);
  if (task in NEEDS && !words?.trim()) return note(where, say.need_words, true);
  const info = { emotion, style, speed, clone_emotion, clone_style }[task];
  const wanted = { task, info, transcript, text, words, intensity, iterations, seed };
  stop();
  const mine = (work = new AbortController());
  note(where, say.working);
  try {
    const response = await (task in NEEDS ? askToClone : askToChange)(wanted, mine.signal);
    const made_s = wavMeter();
    const pieces = await readBody(response, (piece) => note(where, tell("made", { s: made_s(piece).toFixed(1) })));
    if (work !== mine) return;
    const sound = { blob: wholeWav(pieces), label: labelOf(task, info), kind: task, format: "wav" };
    await take({ ...sound, text: { paralinguistic: text }[task] ?? (task in NEEDS ? words : transcript) });
    note(where, tell("done", { s: (await secondsOf(sound.blob)).toFixed(1) }));
  } catch (error) {
    if (work !== mine && error.name === "AbortError") return;
    note(where, error.name === "AbortError" ? say.stopped : error.message, error.name !== "AbortError");
  }
}

function askToChange({ task, info, transcript, text, intensity, iterations, seed }, signal) {
  const fields = { file: steps[at].blob, mode: task, edit_info: info, transcript, iterations, seed, response_format: "wav" };
  if (task === "paralinguistic") fields.text = text;
  if ((task === "emotion" || task === "style") && info !== "remove") fields.intensity = intensity;
  return change(fields, signal);
}

function askToClone({ info, transcript, words, intensity, iterations, seed }, signal) {
  const feeling = info ? { edit_info: info, intensity, n_edit_iter: iterations } : {};
  return clone(steps[at].blob, words, { prompt_text: transcript, ...feeling }, seed, signal);
}

function labelOf(task, info) {
  const option = info && say.options[task.replace("clone_", "")][info];
  if (task in NEEDS) return option ? `${say.task_clone}: ${option}` : say.task_clone;
  return option || say[`task_${task}`];
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

/** Insert a sound at the cursor. */
function insert(tag) {
  const field = document.querySelector("#edit_text textarea");
  field.focus();
  field.setRangeText(`[${tag}]`, field.selectionStart, field.selectionEnd, "end");
  field.dispatchEvent(new InputEvent("input", { bubbles: true }));
}

/** Build the tab. */
export function startEdit() {
  const where = place("edit_source");
  const picker = sourcePicker("edit_file", say.source, (file) => takeRecording(file, file.name), (text) => note(where, text, true));
  where.replaceChildren(picker, ...notes(), make("div", { id: "edit_chain", class: "actions" }), make("div", { id: "edit_before" }));
  const reasons = new Map();
  for (const { value } of tasks().filter((task) => lackOf(task.value))) {
    const why = howTo(lackOf(value));
    reasons.set(why, [...(reasons.get(why) || []), say[`task_${value}`]]);
  }
  const lines = [...reasons].map(([why, modes]) => make("li", {}, `${modes.join(say.and)}${say.colon}`, ...withCode(why)));
  place("edit_about").replaceChildren(
    make("p", { id: "edit_explained" }),
    make("div", { id: "edit_missing" }, ...(lines.length ? [make("p", {}, say.cannot), make("ul", {}, ...lines)] : [])),
  );
  place("edit_sounds").replaceChildren(
    make("div", { class: "actions", role: "group", "aria-label": say.insert },
      ...Object.entries(say.options.paralinguistic).map(([tag, text]) => button(text, () => insert(tag), { title: `[${tag}]` }))),
  );
  place("edit_result").replaceChildren(...notes(), make("div", { id: "edit_card" }));
  const first = tasks().find((task) => !lackOf(task.value));
  if (first && !first.checked) first.click();
  showTask(first?.value || "emotion");
}
