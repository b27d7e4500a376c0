// The status tab. The page watches a stream that ends when the daemon exits, so it never wakes a sleeping one.

import { ask, askJson } from "./api.js";
import { wishes } from "./hints.js";
import { button, make, note, notes, place, say, tell, withCode } from "./words.js";

let watching = null;
let last = null;
let sleepsAt = 0;

/** Watch until the stream ends; a later click of the user starts it again. */
async function watch() {
  if (watching) return;
  watching = new AbortController();
  try {
    const response = await fetch("page/watch", { signal: watching.signal });
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
    // the daemon has exited, or watching was stopped
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
  const until_s = part?.time_until_unload;
  sleepsAt = until_s == null ? (part && part.idle_timeout == null ? Infinity : 0) : Date.now() + 1000 * until_s;
  draw();
  tick();
}

/** Count the seconds down between events. */
const left_s = () => Math.max(0, Math.round((sleepsAt - Date.now()) / 1000));

/** The time until the daemon sleeps. */
function sleepText() {
  if (sleepsAt === Infinity) return say.for_good;
  if (last.daemon.active || last.daemon.queued) return say.after_work;
  return tell("sleeps_in", { s: left_s() });
}

/** The loading stage, in the page's language if it has a translation. */
function stageText({ stage, fraction }) {
  const [name] = stage.split(", ");
  return `${say.stages[name] || stage} ${Math.round(100 * fraction)} %`;
}

/** What the daemon does, in words; of the states of its worker, those that a user may notice. */
function stateText({ load, active, worker_state }) {
  if (load) return say.loading;
  if (active) return say[worker_state === "awake" ? "busy" : worker_state] || say.busy;
  return worker_state === "dozing" ? say.dozing : say.awake;
}

function tick() {
  if (!last) return;
  const { load, active, worker_state } = last.daemon;
  const isDozing = worker_state === "dozing";
  if (load) badge(`${say.loading}: ${stageText(load)}`, "loading");
  else if (active) badge(stateText(last.daemon), "busy");
  else if (sleepsAt === Infinity) badge(isDozing ? say.dozing : say.awake_for_good, "awake");
  else badge(tell(isDozing ? "dozing_until" : "awake_until", { s: left_s() }), "awake");
  const row = document.getElementById("status_sleep");
  if (row) row.textContent = sleepText();
}

function badge(text, state) {
  const element = document.getElementById("badge");
  if (element.dataset.state !== state) place("spoken_state").textContent = text;
  element.dataset.state = state;
  element.textContent = text;
}

/** A hidden tab doesn't watch. When it is shown again, it watches only if that can't wake the daemon. */
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

/** The reason for the choice of the engine. */
function why({ choice, daemon }) {
  if (!choice.engine) return daemon.reason;
  if (choice.setting) return tell("why_configured", choice);
  return [say.why_best, ...choice.passed_over.map((lack) => tell(`lack_${lack.kind}`, lack))].join(say.then);
}

/** The models, without the names of variants in the legacy API. */
function modelsOf({ daemon, choice, ...parts }) {
  return Object.entries(parts).filter(([, model]) => !("model" in model));
}

function row(name, ...value) {
  return [make("dt", {}, name), make("dd", {}, ...value)];
}

function loadRow(load) {
  if (!load) return [];
  const text = `${load.engine}, ${stageText(load)}`;
  const bar = make("progress", { max: 1, value: load.fraction, "aria-label": `${say.loading} ${load.engine}` });
  return row(say.loading, make("span", { id: "status_load" }, text), bar);
}

function draw() {
  const where = place("status_now");
  const models = last ? modelsOf(last) : [];
  const isHeld = !!last && (!!last.daemon.load || models.some(([, model]) => model.loaded));
  document.getElementById("sleep_now").disabled = !isHeld;
  if (!last) return where.replaceChildren(make("p", {}, document.getElementById("badge").textContent));
  const { daemon } = last;
  // one worker holds all models, and each reports the worker's memory
  const memory = Math.max(0, ...models.map(([, model]) => model.gpu_memory_reserved_gb));
  where.replaceChildren(
    make(
      "dl", {},
      ...row(say.state, stateText(daemon)),
      ...loadRow(daemon.load),
      ...row(say.sleep, make("span", { id: "status_sleep" }, sleepText())),
      ...row(say.engine, daemon.engine || "–"),
      ...row(say.why, why(last)),
      ...row(say.queue, tell("queue_text", daemon)),
      ...row(say.served, tell("served_text", daemon.requests)),
      ...row(say.memory, memory ? `${memory.toFixed(2)} GB` : say.memory_none),
      ...models.flatMap(([name, model]) => row(name, model.loaded ? say.loaded : say.not_loaded)),
    ),
  );
}

/** End the worker; the page keeps its contents. */
async function sleepNow() {
  const where = place("status");
  try {
    const status = await askJson("api/v1/models/status");
    const names = new Set(modelsOf(status).filter(([, model]) => model.loaded).map(([name]) => name));
    if (status.daemon.load) names.add(status.daemon.load.engine);
    for (const name of names) await ask(`api/v1/models/${encodeURIComponent(name)}/unload`, { method: "POST" });
    note(where, names.size ? say.slept : say.sleep_done);
  } catch (error) {
    note(where, error.message, true);
  }
}

/** Build the tab, and start watching. */
export function startStatus() {
  const more = wishes();
  place("status").replaceChildren(
    make("div", { id: "status_now" }),
    button(say.sleep_now, sleepNow, { id: "sleep_now", disabled: true }),
    ...notes(),
    ...(more.length ? [make("h2", {}, say.get), make("ul", {}, ...more.map((wish) => make("li", {}, ...withCode(wish))))] : []),
  );
  document.addEventListener("daemon-answered", watch);
  document.addEventListener("visibilitychange", onVisibility);
  setInterval(tick, 1000);
  watch();
}
