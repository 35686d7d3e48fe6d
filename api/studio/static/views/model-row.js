// One model in the operator's corner: what it takes, and loading, unloading and pinning it.
import { html } from "../vendor/htm-preact.js";
import { formatBytes } from "../state/format.js";
import { manageModel } from "../state/models.js";
import { notifyProblem } from "../state/notices.js";
import { IconButton } from "./icons.js";
import { describe } from "./model-picker.js";

export function ModelRow({ model, isAdmin }) {
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
