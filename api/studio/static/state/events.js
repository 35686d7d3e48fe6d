// The event stream of all jobs. It resumes where it broke off: after a restart of the service, or when the laptop slept.
import { headersWith, BASE, lock, Problem } from "./api.js";
import { createStore } from "./store.js";

const SILENCE_MS = 40_000; // The service sends something every 15 seconds.
const MAX_WAIT_MS = 5_000;

export const connection = createStore({ isOnline: true });

// Calls `handle(type, data)` for each event, until the service refuses the key. Browsers have six connections to a server
// for all tabs: one that nobody sees rests unless `isNeeded()`. Call what is returned when that may have changed.
export function followEvents(handle, isNeeded) {
  const stream = { last: "", failures: 0, controller: null, isResting: false, wake: () => {} };
  const reconnect = () => {
    stream.failures = 0;
    stream.controller?.abort();
    stream.wake();
  };
  const restOrGoOn = () => {
    const wasResting = stream.isResting;
    stream.isResting = document.hidden && !isNeeded();
    if (stream.isResting !== wasResting) reconnect();
  };
  window.addEventListener("online", reconnect);
  document.addEventListener("visibilitychange", () => {
    restOrGoOn();
    if (!document.hidden && !connection.get().isOnline) reconnect();
  });
  restOrGoOn();
  run(stream, handle);
  return restOrGoOn;
}

async function run(stream, handle) {
  for (;;) {
    try {
      if (!stream.isResting) await connect(stream, handle);
    } catch (error) {
      if (error.status === 401) return lock();
    }
    if (stream.failures > 0) connection.set({ isOnline: false });
    stream.failures += stream.isResting ? 0 : 1;
    const wait = Math.min(MAX_WAIT_MS, 250 * 2 ** stream.failures);
    await new Promise((resolve) => {
      stream.wake = resolve;
      if (!stream.isResting) setTimeout(resolve, wait);
    });
  }
}

async function connect(stream, handle) {
  const controller = (stream.controller = new AbortController());
  const inTime = (step) => {
    const timer = setTimeout(() => controller.abort(), SILENCE_MS);
    return step.finally(() => clearTimeout(timer));
  };
  const headers = headersWith(stream.last ? { "Last-Event-ID": stream.last } : {});
  // Firefox lets a request that could be answered from the cache wait for the same one of another tab, which never ends.
  const answer = await inTime(fetch(`${BASE}/api/events`, { headers, signal: controller.signal, cache: "no-store" }));
  if (!answer.ok) throw new Problem({ status: answer.status, detail: "" });
  stream.failures = 0;
  connection.set({ isOnline: true });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await inTime(reader.read());
    if (done) return;
    const blocks = (pending + value).split("\n\n");
    pending = blocks.pop();
    for (const block of blocks) dispatch(block, stream, handle);
  }
}

function dispatch(block, stream, handle) {
  const fields = {};
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
    if (name) fields[name] = value;
  }
  if (fields.id) stream.last = fields.id;
  if (fields.event) handle(fields.event, JSON.parse(fields.data));
}
