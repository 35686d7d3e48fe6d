// One model in the operator's corner.
import { html } from "../vendor/htm-preact.js";
import { describe } from "./model-picker.js";

export function ModelRow({ model }) {
  return html`<li>
    <span class=${`dot ${model.state}`}></span>
    <div><strong>${model.name}</strong><span class="hint">${describe(model)}</span></div>
    <span class="hint">${model.backend?.name}</span>
  </li>`;
}
