// The operator's corner: models, workers, the queue and the disk.
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { BASE, sendJson, session } from "../state/api.js";
import { formatBytes, formatSeconds, plural } from "../state/format.js";
import { loadModels, manageModel, models } from "../state/models.js";
import { notifyProblem } from "../state/notices.js";
import { useStore } from "../state/store.js";
import { IconButton } from "./icons.js";
import { describe } from "./model-picker.js";

const REFRESH_MS = 3_000;
// "0" where no Flower runs.
const FLOWER_PORT = document.documentElement.dataset.flowerPort;

export function Service() {
  const rights = useStore(session, (state) => state.rights);
  const { list, backends } = useStore(models);
  const workers = backends.flatMap((backend) => backend.workers);
  const health = useHealth();
  return html`<main class="service" aria-label="Service">
    <h1>Service</h1>
    ${health && html`<${Health} health=${health} backends=${backends} />`}
    <section>
      <h2>Models</h2>
      ${!list && html`<p class="hint">Loading…</p>`}
      <ul class="rows">${(list ?? []).map((model) => html`<${ModelRow} key=${model.name} model=${model} isAdmin=${rights?.is_admin} />`)}</ul>
    </section>
    <section>
      <h2>Workers</h2>
      ${list && workers.length === 0 && html`<p class="hint">No worker is running. Jobs wait until one starts.</p>`}
      <ul class="rows">${workers.map((worker) => html`<${WorkerRow} key=${worker.id} worker=${worker} />`)}</ul>
    </section>
    ${rights?.is_admin && html`<section>
      <h2>More</h2>
      <ul class="links">
        <li><a href=${`${BASE}/docs`}>API</a></li>
        <li><a href=${`${BASE}/health`}>Health as JSON</a></li>
        <li><a href=${`${BASE}/metrics`}>Metrics for Prometheus</a></li>
        ${FLOWER_PORT !== "0" && html`<li><a href=${`http://${location.hostname}:${FLOWER_PORT}`}>Flower (tasks of Celery)</a></li>`}
      </ul>
    </section>`}
  </main>`;
}

function useHealth() {
  const [health, setHealth] = useState(null);
  useEffect(() => {
    const read = () => Promise.all([sendJson("/health").then(setHealth), loadModels()]).catch(() => {});
    read();
    const timer = setInterval(read, REFRESH_MS);
    return () => clearInterval(timer);
  }, []);
  return health;
}

function Health({ health, backends }) {
  const queued = backends.reduce((sum, { queued: count }) => sum + count, 0);
  const wait = Math.max(0, ...backends.map((backend) => backend.estimated_wait_seconds));
  const tiles = [
    ["State", health.status === "ok" ? "Everything works" : health.status, health.status],
    ["Queue", queued ? `${plural(queued, "job")}, ${formatSeconds(wait)}` : "Empty", "ok"],
    ["Free disk", health.outputs.free_bytes === null ? "Unlimited" : formatBytes(health.outputs.free_bytes), health.outputs.writable ? "ok" : "unavailable"],
    ["Version", health.version, "ok"],
  ];
  const reasons = Object.entries(health.reasons);
  return html`<dl class="health">${tiles.map(([name, value, state]) => html`<div key=${name} class=${state}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${reasons.map(([backend, reason]) => html`<p key=${backend} class="problem">${backend}: ${reason}</p>`)}`;
}

function WorkerRow({ worker }) {
  const { memory } = worker;
  return html`<li>
    <span class=${`dot ${worker.state === "loading" ? "loading" : "loaded"}`}></span>
    <div><strong>${worker.name}</strong><span class="hint">${worker.model}${worker.device ? ` on ${worker.device}` : ""}, ${worker.state}</span></div>
    ${memory && html`<div class="memory"><progress aria-label=${`Memory of ${worker.name}`} max=${memory.size_bytes} value=${memory.used_bytes} /><span class="hint">${formatBytes(memory.used_bytes)} of ${formatBytes(memory.size_bytes)}</span></div>`}
  </li>`;
}

function ModelRow({ model, isAdmin }) {
  const { name, state, pinned, memory_bytes: memory, bytes, licence } = model;
  const facts = [model.backend?.name, bytes && `${formatBytes(bytes)} on disk`, memory && `${formatBytes(memory)} in memory`, licence];
  const manage = (action, method) => () => manageModel(name, action, method).catch(notifyProblem);
  return html`<li>
    <span class=${`dot ${state}`}></span>
    <div><strong>${name}</strong><span class="hint">${[describe(model), ...facts.filter(Boolean)].join(" · ")}</span></div>
    ${isAdmin && !model.isPaid && html`<div class="row" role="group" aria-label=${`Manage ${name}`}>
      ${state === "loaded" && html`<button type="button" onClick=${manage("unload", "POST")}>Unload</button>`}
      ${state === "available" && html`<button type="button" onClick=${manage("load", "POST")}>Load</button>`}
      <${IconButton} icon="star" label=${`${pinned ? "Do not keep" : "Keep"} ${name} in memory`} isPressed=${pinned} isFilled=${pinned} onClick=${manage("pin", pinned ? "DELETE" : "PUT")} />
    </div>`}
  </li>`;
}
