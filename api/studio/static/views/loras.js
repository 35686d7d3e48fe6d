// LoRA adapters of the model, each with its strength.
import { html } from "../vendor/htm-preact.js";
import { form } from "../state/form.js";
import { IconButton } from "./icons.js";

const MOST = 5;

export function Loras({ names, chosen }) {
  const free = names.filter((name) => !chosen.some((lora) => lora.name === name));
  const add = (event) => {
    if (event.target.value) form.set({ loras: [...chosen, { name: event.target.value, scale: 1 }] });
    event.target.value = "";
  };
  const scale = (lora, value) => form.set({ loras: chosen.map((other) => (other === lora ? { ...lora, scale: Number(value) } : other)) });
  return html`<fieldset class="field">
    <legend>LoRAs</legend>
    ${chosen.map((lora) => html`<div key=${lora.name} class="lora">
      <span>${lora.name}</span>
      <input type="number" min="-2" max="2" step="0.05" value=${lora.scale} aria-label=${`Strength of ${lora.name}`} onChange=${(event) => scale(lora, event.target.value)} />
      <${IconButton} icon="close" label=${`Remove ${lora.name}`} onClick=${() => form.set({ loras: chosen.filter((other) => other !== lora) })} />
    </div>`)}
    ${chosen.length < MOST && free.length > 0 && html`<select aria-label="Add a LoRA" onChange=${add}>
      <option value="">Add…</option>
      ${free.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
    </select>`}
  </fieldset>`;
}
