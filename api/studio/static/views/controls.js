// The controls of the form: each shows the default of the model until it is changed, and a way back to it.
import { html } from "../vendor/htm-preact.js";
import { form } from "../state/form.js";
import { IconButton } from "./icons.js";

const MOST_LORAS = 5;

// A slider and a number for one value.
export function Range({ name, label, hint, range, value }) {
  const shown = value ?? range.default;
  const set = (event) => {
    const number = Number(event.target.value);
    if (event.target.value !== "" && !Number.isNaN(number)) form.set({ [name]: number });
  };
  const common = { min: range.min, max: range.max, step: range.step, value: shown };
  return html`<div class="field">
    <div class="field-head">
      <label for=${name}>${label}</label>
      ${value !== null && html`<${IconButton} icon="reset" label=${`Reset ${label} to the default`} onClick=${() => form.set({ [name]: null })} />`}
      <input id=${`${name}-number`} type="number" aria-label=${`${label} as a number`} ...${common} onChange=${set} />
    </div>
    <input id=${name} type="range" ...${common} onInput=${set} title=${hint} />
  </div>`;
}

export function Choice({ name, label, options, value, none }) {
  const set = (event) => form.set({ [name]: event.target.value || null });
  return html`<div class="field">
    <div class="field-head"><label for=${name}>${label}</label></div>
    <select id=${name} value=${options.includes(value) ? value : ""} onChange=${set}>
      ${none && html`<option value="">${none}</option>`}
      ${options.map((option) => html`<option key=${option} value=${option}>${option}</option>`)}
    </select>
  </div>`;
}

// LoRA adapters of the model, each with its strength.
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
    ${chosen.length < MOST_LORAS && free.length > 0 && html`<select aria-label="Add a LoRA" onChange=${add}>
      <option value="">Add…</option>
      ${free.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
    </select>`}
  </fieldset>`;
}
