// Playback of audio during generation, and its pictures.

/** Longer than the header of every WAV file that the daemon makes. */
const HEAD_BYTES = 4096;
const LEAD_S = 0.08;

/** Plays chunks of samples as they arrive. */
class Player {
  constructor() {
    this.context = new AudioContext();
    this.at = 0;
    this.made_s = 0;
  }

  play(samples, rate) {
    if (!samples.length || this.context.state === "closed") return;
    this.made_s += samples.length / rate;
    const buffer = this.context.createBuffer(1, samples.length, rate);
    buffer.copyToChannel(samples, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    this.at = Math.max(this.at, this.context.currentTime + LEAD_S);
    source.start(this.at);
    this.at += buffer.duration;
  }

  /** End of the input: release the device after the playback. */
  async finish() {
    const left_s = this.at - this.context.currentTime;
    this.timer = setTimeout(() => this.stop(), 1000 * (left_s + 0.2));
  }

  stop() {
    clearTimeout(this.timer);
    if (this.context.state !== "closed") this.context.close();
  }
}

/** Plays a WAV response as it arrives; its header has the sample rate but no length. */
class WavPlayer extends Player {
  rest = new Uint8Array(0);
  rate = 0;

  /** Add bytes; an incomplete sample is kept for the next call. */
  push(bytes) {
    this.rest = joined([this.rest, bytes]);
    if (!this.rate) {
      const header = wavHeader(this.rest);
      if (!header) return;
      this.rate = header.rate;
      this.rest = this.rest.slice(header.begin);
    }
    const count = this.rest.length >> 1;
    const samples = new Int16Array(this.rest.slice(0, count * 2).buffer);
    this.rest = this.rest.slice(count * 2);
    this.play(Float32Array.from(samples, (sample) => sample / 32768), this.rate);
  }
}

/** The end of a cut stream is left out: a codec needs the following data to decode it. */
const UNSURE_S = 0.25;
/** Decode again after this much more data, or less if the playback is about to run out. */
const MORE = 0.3;
const A_LITTLE_MORE = 0.06;
const NEAR_S = 1.5;

/**
 * Plays a compressed response as it comes. A browser decodes whole files only, but takes a file that breaks off:
 * so what has come is decoded from its beginning, now and then, and what is new in it is played. Each time
 * more has come by a share, so all of it together costs a few times what decoding once costs.
 */
class EncodedPlayer extends Player {
  pieces = [];
  size = 0;
  decoded = 0;
  played = 0;
  decoding = null;

  push(bytes) {
    this.pieces.push(bytes);
    this.size += bytes.length;
    this.decoding ||= this.decodeOn();
  }

  /** Run one decoding at a time, while enough data has arrived. */
  async decodeOn() {
    while (this.hasMore()) await this.decode(UNSURE_S);
    this.decoding = null;
  }

  hasMore() {
    const isNear = this.at - this.context.currentTime < NEAR_S;
    return this.size > this.decoded * (1 + (isNear ? A_LITTLE_MORE : MORE));
  }

  async decode(unsure_s) {
    this.decoded = this.size;
    let buffer;
    try {
      buffer = await this.context.decodeAudioData(joined(this.pieces).buffer);
    } catch {
      return;  // not enough data for a file yet
    }
    const until = Math.round(buffer.length - unsure_s * buffer.sampleRate);
    if (until <= this.played) return;
    this.play(buffer.getChannelData(0).slice(this.played, until), buffer.sampleRate);
    this.played = until;
  }

  async finish() {
    await this.decoding;
    await this.decode(0);
    return super.finish();
  }
}

/** A player for a response of that format. */
export const livePlayer = (format) => (format === "wav" ? new WavPlayer() : new EncodedPlayer());

function joined(pieces) {
  const all = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

/** Parse a WAV header; null if it is incomplete. */
function wavHeader(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let rate = 0;
  let bytes_per_s = 0;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const name = String.fromCharCode(...bytes.subarray(at, at + 4));
    const size = view.getUint32(at + 4, true);
    if (name === "data") return { rate, bytes_per_s, begin: at + 8, size };
    if (name === "fmt " && at + 20 <= bytes.length) {
      rate = view.getUint32(at + 12, true);
      bytes_per_s = view.getUint32(at + 16, true);
    }
    at += 8 + size + (size % 2);
  }
  return null;
}

/** A copy of a streamed WAV with its length in the header. */
export function wholeWav(pieces) {
  const blob = new Blob(pieces);
  const head = [];
  for (let i = 0, size = 0; i < pieces.length && size < HEAD_BYTES; i++) {
    head.push(pieces[i].subarray(0, HEAD_BYTES - size));
    size += head.at(-1).length;
  }
  const bytes = joined(head);
  const { begin } = wavHeader(bytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(4, blob.size - 8, true);
  view.setUint32(begin - 4, blob.size - begin, true);
  return new Blob([bytes.subarray(0, begin), blob.slice(begin)], { type: "audio/wav" });
}

/** Counts the seconds of a streamed WAV. */
export function wavMeter() {
  let size = 0;
  let head = new Uint8Array(0);
  let header = null;
  return (piece) => {
    size += piece.length;
    if (!header) {
      head = joined([head, piece]);
      header = wavHeader(head);
    }
    return header ? (size - header.begin) / header.bytes_per_s : 0;
  };
}

/** The duration of a complete WAV of the daemon. */
export async function secondsOf(wav) {
  const { size, bytes_per_s } = wavHeader(new Uint8Array(await wav.slice(0, HEAD_BYTES).arrayBuffer()));
  return size / bytes_per_s;
}

/** The samples of a recording, whatever its format. */
export async function samplesOf(blob) {
  const context = new OfflineAudioContext(1, 1, 24000);
  const buffer = await context.decodeAudioData(await blob.arrayBuffer());
  return { samples: buffer.getChannelData(0), rate: buffer.sampleRate, duration_s: buffer.duration };
}

function color(name) {
  return getComputedStyle(document.body).getPropertyValue(name).trim() || "#4f46e5";
}

/** The maximum and the minimum of each column. */
export function drawWaveform(canvas, samples) {
  const { width, height } = canvas;
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, height);
  pen.fillStyle = color("--sound");
  for (let x = 0; x < width; x++) {
    const from = Math.floor((x * samples.length) / width);
    const to = Math.max(from + 1, Math.floor(((x + 1) * samples.length) / width));
    let low = 0;
    let high = 0;
    for (let i = from; i < to && i < samples.length; i++) {
      if (samples[i] < low) low = samples[i];
      if (samples[i] > high) high = samples[i];
    }
    pen.fillRect(x, ((1 - high) * height) / 2, 1, Math.max(1, ((high - low) * height) / 2));
  }
}

const FFT = 512;
const FLOOR_DB = -80;

/** Energy by time and frequency, low frequencies at the bottom; Hann windows of 512 samples. */
export function drawSpectrogram(canvas, samples) {
  const { width, height } = canvas;
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(width, height);
  const hann = Float32Array.from({ length: FFT }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / FFT));
  const re = new Float32Array(FFT);
  const im = new Float32Array(FFT);
  for (let x = 0; x < width; x++) {
    const from = Math.floor((x * Math.max(0, samples.length - FFT)) / width);
    for (let i = 0; i < FFT; i++) re[i] = (samples[from + i] || 0) * hann[i];
    im.fill(0);
    transform(re, im);
    for (let y = 0; y < height; y++) {
      const bin = Math.floor(((height - 1 - y) * FFT) / 2 / height);
      const db = 20 * Math.log10(Math.hypot(re[bin], im[bin]) / (FFT / 4) + 1e-9);
      const level = Math.min(1, Math.max(0, 1 - db / FLOOR_DB));
      const at = 4 * (y * width + x);
      image.data[at] = 255 * Math.min(1, 1.6 * level * level);
      image.data[at + 1] = 255 * level ** 3;
      image.data[at + 2] = 60 + 150 * Math.sin(Math.PI * level);
      image.data[at + 3] = 255;
    }
  }
  pen.putImageData(image, 0, 0);
}

/** The fast Fourier transform, in place (Cooley and Tukey, radix 2). */
function transform(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const angle = (-2 * Math.PI * k) / size;
      const c = Math.cos(angle);
      const s = Math.sin(angle);
      for (let i = k; i < n; i += size) {
        const j = i + size / 2;
        const r = re[j] * c - im[j] * s;
        const m = re[j] * s + im[j] * c;
        re[j] = re[i] - r;
        im[j] = im[i] - m;
        re[i] += r;
        im[i] += m;
      }
    }
  }
}
