// Chooses a model, and says whether it is loaded and what it costs.
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { sendJson } from "../state/api.js";
import { form } from "../state/form.js";
import { formatBytes, formatSeconds, plural } from "../state/format.js";
import { jobs } from "../state/jobs.js";
import { models } from "../state/models.js";
import { useStore } from "../state/store.js";
import { control, Field } from "./controls.js";

export function ModelPicker({ chosen }) {
  const list = useStore(models, (state) => state.list);
  if (!list) return html`<p class="hint">Loading the list of models…</p>`;
  if (!list.length) return html`<p class="problem">No model is available yet. Its worker may still be starting.</p>`;
  const load = chosen.download ?? chosen.loading;
  return html`<${Field} field="model" label="Model">
    <select ...${control("model", "model-state")} value=${chosen?.name} onChange=${(event) => form.set({ model: event.target.value })}>
      ${list.map((model) => html`<option key=${model.name} value=${model.name}>${model.name}${model.state === "loaded" ? "" : ` (${model.state})`}</option>`)}
    </select>
    <div id="model-state" class="model-state">
      <span class=${`dot ${chosen.state}`}></span> ${describe(chosen)}
      ${load?.bytes_total && html`<progress aria-label="How much of the model is loaded" value=${load.bytes_done} max=${load.bytes_total} />`}
    </div>
  <//>`;
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

// What an image of a paid model costs, from the last ones that were bought.
export function Price({ model, count }) {
  const [each, setEach] = useState(null);
  const bought = useStore(jobs, ({ byId, mine }) => mine.filter((id) => byId.get(id)?.state === "succeeded").length);
  useEffect(() => {
    const query = new URLSearchParams({ model: model.name, state: "succeeded", limit: 5 });
    sendJson(`/api/jobs?${query}`).then((found) => setEach(lastPrice(found.jobs)), () => {});
  }, [model.name, bought]);
  const credits = model.backend?.credits ?? null;
  const left = credits === null ? "" : ` ${credits} credits are left.`;
  if (each === null) return html`<p class="hint">This model is paid. Its price is known after the first image.${left}</p>`;
  return html`<p class="hint">Costs about <strong>${round(each * count)} credits</strong>, as the last time.${left}</p>`;
}

const lastPrice = (found) => found.flatMap((job) => job.providers.map((task) => task.cost)).find((cost) => cost !== null) ?? null;
const round = (value) => Math.round(value * 100) / 100;
