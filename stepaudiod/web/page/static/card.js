// A result on the page: its name, a player, pictures and actions.

import { drawSpectrogram, drawWaveform, samplesOf } from "./sound.js";
import { button, make, say } from "./words.js";

let opened = [];

/** A blob's URL, revoked when its element has left the page. */
export function addressOf(blob, element) {
  opened = opened.filter(({ address, element: user }) => {
    if (user.wasShown && !user.isConnected) URL.revokeObjectURL(address);
    return !(user.wasShown && !user.isConnected);
  });
  const address = URL.createObjectURL(blob);
  opened.push({ address, element });
  setTimeout(() => (element.wasShown = true));
  return address;
}

function picture(label) {
  return make("canvas", { width: 600, height: 72, role: "img", "aria-label": label });
}

/** Draw a recording once it is decoded; a recording that the browser can't decode has no picture. */
async function draw(blob, waveform, spectrogram) {
  let sound;
  try {
    sound = await samplesOf(blob);
  } catch {
    waveform.hidden = spectrogram.hidden = true;
    return;
  }
  drawWaveform(waveform, sound.samples);
  drawSpectrogram(spectrogram, sound.samples);
}

/**
 * A card for `{blob, label, kind, format}`.
 * `actions` are more buttons: [text, handler].
 */
export function card(sound, actions = []) {
  const title = make("h3", {}, sound.label);
  const player = make("audio", { controls: true, preload: "metadata", "aria-label": sound.label });
  const waveform = picture(`${say.waveform}: ${sound.label}`);
  const spectrogram = picture(`${say.spectrogram}: ${sound.label}`);
  const save = make("a", { class: "small", download: `${sound.kind || "sound"}.${sound.format || "wav"}` }, say.download);
  const row = make("div", { class: "actions" }, save, ...actions.map(([text, act]) => button(text, act)));
  const element = make("article", { class: "card" }, title, player, waveform, spectrogram, row);
  player.src = save.href = addressOf(sound.blob, element);
  draw(sound.blob, waveform, spectrogram);
  return element;
}

/** Copy a text to the clipboard. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = make("textarea", { readonly: true });  // a page over http from another machine has no clipboard API
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
