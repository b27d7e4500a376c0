// How the daemon is. The page watches a stream that ends when the daemon leaves: it never asks a sleeping one.

import { ask, askJson } from "./api.js";
import { button, make, note, notes, place, say, tell } from "./words.js";

/** How the interface before this one called variants; the status has them beside the models. */
const OLD_NAMES = ["base", "awq", "bnb"];

let watching = null;
let last = null;
let sleepsAt = 0;
let install = {};

/** Watch until the stream ends; a later click of somebody's begins anew. */
async function watch() {
  if (watching) return;
  watching = new AbortController();
  try {
    const response = await fetch("/page/watch", { signal: watching.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const events = (text + value).split("\n\n");
      text = events.pop();
      if (events.length) take(JSON.parse(events.at(-1).slice("data: ".length)));
    }
  } catch {
    // the daemon has gone, or we have stopped looking
  }
  watching = null;
  if (document.hidden) return;
  last = null;
  badge(say.asleep, "asleep");
  draw();
}

function take(status) {
  last = status;
  const part = Object.values(status).find((each) => "time_until_unload" in each);
  const left_s = part?.time_until_unload;
  sleepsAt = left_s == null ? (part && part.idle_timeout == null ? Infinity : 0) : Date.now() + 1000 * left_s;
  draw();
  tick();
}

/** The clock in the badge runs here. */
function tick() {
  if (!last) return;
  const { loading, active } = last.daemon;
  const left_s = Math.max(0, Math.round((sleepsAt - Date.now()) / 1000));
  if (loading) badge(`${say.loading}: ${loading}`, "loading");
  else if (active) badge(say.busy, "busy");
  else if (sleepsAt === Infinity) badge(`${say.awake}, ${say.for_good}`, "awake");
  else badge(`${say.awake}, ${tell("sleeps_in", { s: left_s })}`, "awake");
}

function badge(text, state) {
  const element = document.getElementById("badge");
  if (element.dataset.state !== state) place("spoken_state").textContent = text;
  element.dataset.state = state;
  element.textContent = text;
}

/** A hidden tab looks at nothing. When it is seen again it looks only if that can't wake anybody. */
function onVisibility() {
  if (document.hidden) {
    watching?.abort();
  } else if (last && Date.now() < sleepsAt - 2000) {
    watch();
  } else {
    last = null;
    badge(say.not_seen, "asleep");
    draw();
  }
}

function row(name, value) {
  return [make("dt", {}, name), make("dd", {}, value)];
}

function draw() {
  const where = place("status_now");
  if (!last) return where.replaceChildren(make("p", {}, say.asleep));
  const { daemon, ...parts } = last;
  const models = Object.fromEntries(Object.entries(parts).filter(([name]) => !OLD_NAMES.includes(name)));
  const memory = Object.values(models).reduce((sum, m) => sum + m.gpu_memory_reserved_gb, 0);
  where.replaceChildren(
    make(
      "dl", {},
      ...row(say.engine, daemon.engine || "–"),
      ...row(say.why, daemon.reason),
      ...row(say.queue, tell("queue_text", daemon)),
      ...row(say.served, tell("served_text", daemon.requests)),
      ...row(say.memory, memory ? `${memory.toFixed(2)} GB` : say.memory_none),
      ...Object.entries(models).flatMap(([name, m]) => row(name, m.loaded ? say.loaded : say.not_loaded)),
    ),
  );
}

/** End the worker; the page and what is on it stay. */
async function sleepNow() {
  const where = place("status");
  try {
    const status = await askJson("/api/v1/models/status");
    const loaded = Object.entries(status).filter(([name, m]) => m.loaded && !OLD_NAMES.includes(name));
    for (const [name] of loaded) await ask(`/api/v1/models/${encodeURIComponent(name)}/unload`, { method: "POST" });
    note(where, loaded.length ? say.slept : say.sleep_done);
  } catch (error) {
    note(where, error.message, true);
  }
}

/** Build the tab, and begin to watch. */
export function startStatus(missing) {
  install = missing;
  const wishes = [...new Set(Object.values(install))];
  place("status").replaceChildren(
    make("div", { id: "status_now" }),
    button(say.sleep_now, sleepNow),
    ...notes(),
    ...(wishes.length ? [make("h3", {}, say.get), make("ul", {}, ...wishes.map((wish) => make("li", {}, wish)))] : []),
  );
  document.addEventListener("daemon-answered", watch);
  document.addEventListener("visibilitychange", onVisibility);
  setInterval(tick, 1000);
  watch();
}
