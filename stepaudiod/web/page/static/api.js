// Client of the daemon's API. A call to a sleeping daemon wakes it and waits.

import { say } from "./words.js";

/** An error with a message for the user. */
export class Failure extends Error {}

/** Send a request; errors are raised as `Failure` with the daemon's message. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(say.gone);
  }
  document.dispatchEvent(new Event("daemon-answered"));
  if (response.ok) return response;
  let error = { message: `${response.status} ${response.statusText}` };
  try {
    error = (await response.json()).error;
  } catch {
    // not an error in the API's form: use the status
  }
  throw new Failure(`${say.failed} ${inWords(error)}`);
}

/** The daemon's messages are English; in another language a translated sentence comes first. */
function inWords({ code, param, message }) {
  const sentence = say.errors[`${code} ${param}`] || say.errors[code];
  return sentence ? `${sentence}（${message}）` : message;
}

export const askJson = async (path, options) => (await ask(path, options)).json();

/** Read a body in chunks. */
export async function readBody(response, onPiece) {
  const pieces = [];
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return pieces;
      pieces.push(value);
      onPiece?.(value);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(say.cut);
  }
}

const speechBody = (wanted) => JSON.stringify(wanted);

export function speak(wanted, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask("v1/audio/speech", { method: "POST", headers, body: speechBody(wanted), signal });
}

/** A form with files; empty fields are omitted. */
export function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) data.append(name, value, value.name || "recording.wav");
    else if (value !== "" && value != null) data.append(name, value);
  }
  return data;
}

export function edit(fields, signal) {
  return ask("v1/audio/edits", { method: "POST", body: form(fields), signal });
}

/** New words in the voice of a recording; `options` select an emotion or a style. */
export function clone(recording, words, options, seed, signal) {
  const wanted = { input: words, response_format: "wav", step_audio: { mode: "clone", ...options } };
  if (seed != null) wanted.seed = seed;
  const body = form({ payload: JSON.stringify(wanted), prompt_audio_file: recording });
  return ask("v1/audio/speech/upload", { method: "POST", body, signal });
}

export async function transcribe(file, signal) {
  const body = form({ file, model: "whisper-1" });
  return (await askJson("v1/audio/transcriptions", { method: "POST", body, signal })).text;
}

/** The API's URL, relative to the page, which may be below a proxy's path. */
const base = new URL("v1", document.baseURI).href;

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** The same request for a terminal. */
export function asCurl(wanted) {
  const where = `${base}/audio/speech`;
  return `curl -sSN --fail-with-body ${where} -H 'Content-Type: application/json' -d ${quoted(speechBody(wanted))} -o speech.${wanted.response_format}`;
}

/** The same request for a program, with OpenAI's package. */
export function asPython(wanted) {
  const { model, voice, input, response_format, speed, instructions, ...extra } = wanted;
  const own = { model, voice, input, response_format, speed, ...(instructions && { instructions }) };
  const lines = Object.entries(own).map(([name, value]) => `    ${name}=${JSON.stringify(value)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${JSON.stringify(extra)},`);
  return [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base}", api_key="-")`,
    "with client.audio.speech.with_streaming_response.create(",
    ...lines,
    ") as speech:",
    `    speech.stream_to_file("speech.${response_format}")`,
    "",
  ].join("\n");
}
