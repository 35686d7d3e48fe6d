// Chooses a model, and says whether it is loaded.
import { html } from "../vendor/htm-preact.js";
import { form } from "../state/form.js";
import { formatBytes, formatSeconds, plural } from "../state/format.js";
import { models } from "../state/models.js";
import { useStore } from "../state/store.js";

export function ModelPicker({ chosen }) {
  const list = useStore(models, (state) => state.list);
  if (!list) return html`<p class="hint">Asking for models…</p>`;
  if (!list.length) return html`<p class="problem">No model is there yet. Its worker may still be starting.</p>`;
  return html`<div class="field">
    <label for="model">Model</label>
    <select id="model" value=${chosen?.name} aria-describedby="model-state" onChange=${(event) => form.set({ model: event.target.value })}>
      ${list.map((model) => html`<option key=${model.name} value=${model.name}>${model.name}${model.state === "loaded" ? "" : ` (${model.state})`}</option>`)}
    </select>
    <${ModelState} model=${chosen} />
  </div>`;
}

function ModelState({ model }) {
  const load = model.download ?? model.loading;
  return html`<div id="model-state" class="model-state">
    <span class=${`dot ${model.state}`}></span> ${describe(model)}
    ${load?.bytes_total && html`<progress aria-label="How much of the model is loaded" value=${load.bytes_done} max=${load.bytes_total} />`}
  </div>`;
}

export function describe(model) {
  const { state, backend, reason } = model;
  const load = model.download ?? model.loading;
  const done = load?.bytes_total ? ` ${formatBytes(load.bytes_done)} of ${formatBytes(load.bytes_total)}` : "";
  const queued = backend?.queued ?? 0;
  const waiting = queued > 0 ? `, ${plural(queued, "job")} waiting (${formatSeconds(backend.estimated_wait_seconds)})` : "";
  if (model.isPaid) return `In the cloud, paid${waiting}`;
  if (state === "loaded") return `Loaded${backend?.device ? ` on ${backend.device}` : ""}${waiting}`;
  if (state === "available") return `Ready to load${waiting}`;
  if (state === "downloading") return `Downloading${done}`;
  if (state === "loading") return `Loading${done}; jobs wait for it`;
  return reason ?? "No worker has it at the moment; jobs wait for one";
}
