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
  return html`<div id="model-state" class="model-state">
    <span class=${`dot ${model.state}`}></span> ${describe(model)}
    ${model.download && html`<progress aria-label="Download" value=${model.download.bytes_done} max=${model.download.bytes_total || 1} />`}
  </div>`;
}

export function describe(model) {
  const { state, backend, download, reason } = model;
  const queued = backend?.queued ?? 0;
  const waiting = queued > 0 ? `, ${plural(queued, "job")} waiting (${formatSeconds(backend.estimated_wait_seconds)})` : "";
  if (model.isPaid) return `In the cloud, paid${waiting}`;
  if (state === "loaded") return `Loaded${backend?.device ? ` on ${backend.device}` : ""}${waiting}`;
  if (state === "available") return `Ready to load${waiting}`;
  if (state === "downloading" && download) return `Downloading ${formatBytes(download.bytes_done)} of ${formatBytes(download.bytes_total)}`;
  if (state === "loading") return "Loading… jobs wait for it";
  return reason ?? "No worker has it at the moment; jobs wait for one";
}
