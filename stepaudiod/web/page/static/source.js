// Recordings from a file or the microphone.

import { button, make, say, tell } from "./words.js";

/** A file input that looks like the other buttons, in the page's language. */
export function fileButton(label, file) {
  file.classList.add("heard");
  return make("label", { class: "small" }, label, file);
}

/** Advice about an unavailable microphone, by the browser's error name. */
function whyNot(error) {
  if (!navigator.mediaDevices) return tell("microphone_insecure", { port: location.port || 80 });
  return say[`microphone_${error.name}`] || `${say.microphone_failed} ${error.message}`;
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;

/** Record until `stop` is called; resolves to a file. */
async function record(onRecording, onSecond) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  let seconds = 0;
  const timer = setInterval(() => onSecond((seconds += 1)), 1000);
  recorder.ondataavailable = (event) => pieces.push(event.data);
  recorder.onstop = () => {
    clearInterval(timer);
    stream.getTracks().forEach((track) => track.stop());
    const type = recorder.mimeType.split(";")[0];
    const suffix = type.includes("ogg") ? "ogg" : type.includes("mp4") ? "mp4" : "webm";
    onRecording(new File(pieces, `${say.microphone}.${suffix}`, { type }));
  };
  recorder.start();
  return () => recorder.stop();
}

/** Controls to choose or make a recording; `onRecording` gets it as a file. */
export function sourcePicker(id, label, onRecording, onError) {
  const file = make("input", { type: "file", id, accept: "audio/*,video/webm,.opus,.flac" });
  file.addEventListener("change", () => file.files[0] && onRecording(file.files[0]));
  const microphone = button(say.record, () => toggle(), { "aria-pressed": "false" });
  const time = make("span", { "aria-hidden": "true" });
  let stop = null;

  function show(isRecording) {
    microphone.textContent = isRecording ? say.recording : say.record;
    microphone.setAttribute("aria-pressed", String(isRecording));
    time.textContent = isRecording ? clock(0) : "";
  }

  async function toggle() {
    if (stop) return stop();
    const done = (recording) => {
      stop = null;
      show(false);
      onRecording(recording);
    };
    try {
      stop = await record(done, (seconds) => (time.textContent = clock(seconds)));
      show(true);
    } catch (error) {
      onError(whyNot(error));
    }
  }

  const words = make("p", { class: "name" }, label);
  return make("div", { class: "source" }, words, make("div", { class: "actions" }, fileButton(say.choose_file, file), microphone, time));
}
