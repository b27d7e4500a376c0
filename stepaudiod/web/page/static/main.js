// The functions for gradio's handlers, and the page's initialization.

import { askJson } from "./api.js";
import { edit, keepTranscript, showTask, startEdit, stopEditing, takeRecording } from "./edit.js";
import { filling, set } from "./fields.js";
import { startHints } from "./hints.js";
import { startHistory } from "./history.js";
import { onField, speak, startSpeak, stopSpeaking } from "./speak.js";
import { startStatus } from "./status.js";
import { addVoice, startVoices } from "./voices.js";
import { make, place, say } from "./words.js";

/** Make a result the recording to edit. */
function editThis(sound) {
  openTab("edit");
  takeRecording(sound.blob, sound.label, sound.text);
}

function drawTop() {
  const { other_language, other_code, other_tag } = say;
  place("top").replaceChildren(
    make(
      "header", { class: "top" },
      make("h1", {}, say.title),
      make("p", {}, say.lead),
      make("span", { id: "badge" }),
      make("span", { id: "spoken_state", class: "heard", role: "status", "aria-live": "polite" }),
      make("a", { href: `?lang=${other_code}`, lang: other_tag, hreflang: other_tag, class: "small" }, other_language),
    ),
  );
}

const PLACES = { speak: "speak_result", edit: "edit_result", voices: "voice_result", history: "history", status: "status" };

/** gradio draws a tab when it is first shown, so each is shown once and can be filled. */
async function drawTabs() {
  for (const [tab, last] of Object.entries(PLACES)) {
    openTab(tab);
    while (!place(last)) await nextFrame();
  }
  openTab("speak");
  while (!isShown(PLACES.speak)) await nextFrame();
}

const nextFrame = () => new Promise(requestAnimationFrame);
const isShown = (name) => place(name).offsetParent !== null;

function openTab(name) {
  set({ tabs: { selected: name } });
}

async function start() {
  drawTop();
  await drawTabs();
  const [tags, page] = await Promise.all([askJson("v1/tags"), askJson("page/state")]);
  startHints(page.missing);
  startStatus();
  startEdit();
  await startHistory(page.keep_results, editThis);
  await startVoices(await startSpeak(tags, editThis));
  document.querySelector(".overflow-menu > button")?.setAttribute("aria-label", say.more_tabs);
  document.documentElement.dataset.ready = "yes";
}

window.stepaudiod = {
  start, speak, edit, filling,
  keep: onField,
  stop_speak: stopSpeaking,
  stop_edit: stopEditing,
  show_task: showTask,
  keep_transcript: keepTranscript,
  add_voice: addVoice,
};
