// Where a recording comes from: a file, or the microphone.

import { button, make, say } from "./words.js";

/** A file field that looks like the other buttons and speaks the page's language. */
export function fileButton(label, file) {
  file.classList.add("heard");
  return make("label", { class: "small" }, label, file);
}

/** A place to choose or make a recording; `onRecording` gets it as a file. */
export function sourcePicker(id, label, onRecording, onError) {
  const file = make("input", { type: "file", id, accept: "audio/*,video/webm,.opus,.flac" });
  file.addEventListener("change", () => file.files[0] && onRecording(file.files[0]));
  const microphone = button(say.record, () => toggle(), { "aria-pressed": "false" });
  let recorder = null;

  async function toggle() {
    if (recorder) return recorder.stop();
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch {
      return onError(say.no_microphone);
    }
    const pieces = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (event) => pieces.push(event.data);
    recorder.onstop = () => {
      const type = recorder.mimeType.split(";")[0];
      recorder = null;
      stream.getTracks().forEach((track) => track.stop());
      microphone.textContent = say.record;
      microphone.setAttribute("aria-pressed", "false");
      onRecording(new File(pieces, type.includes("ogg") ? "microphone.ogg" : "microphone.webm", { type }));
    };
    recorder.start();
    microphone.textContent = say.recording;
    microphone.setAttribute("aria-pressed", "true");
  }

  const words = make("p", { class: "name" }, label);
  return make("div", { class: "source" }, words, make("div", { class: "actions" }, fileButton(say.choose_file, file), microphone));
}
