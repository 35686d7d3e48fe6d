// The controls of the form: each shows the default of the model until it is changed, and what the service refused about it.
import { html } from "../vendor/htm-preact.js";
import { errorOf, form } from "../state/form.js";
import { IconButton } from "./icons.js";

const MOST_LORAS = 5;

// The attributes of the control for a field of the request. `hint` is the id of what describes it, too.
export function control(field, hint = "") {
  const isInvalid = errorOf(field) !== undefined;
  return { id: field, "aria-invalid": isInvalid || undefined, "aria-describedby": `${isInvalid ? `${field}-error` : ""} ${hint}`.trim() || undefined };
}

// What a field for a number does when it changes. An empty one stands for the default.
export const setNumber = (field) => ({ target }) => form.set({ [field]: target.value === "" ? null : Number(target.value) });

export function FieldError({ field }) {
  const error = errorOf(field);
  return error !== undefined && html`<p id=${`${field}-error`} class="field-error" role="alert">${error}</p>`;
}

// A control with its label, and buttons beside that.
export function Field({ field, label, beside, className = "", children }) {
  return html`<div class=${`field ${className}`}>
    <div class="field-head"><label for=${field}>${label}</label> ${beside}</div>
    ${children}
    <${FieldError} field=${field} />
  </div>`;
}

// A slider and a number for one value.
export function Range({ name, label, hint, range, value }) {
  const shown = value ?? range.default;
  const common = { min: range.min, max: range.max, step: range.step, value: shown };
  const beside = html`${value !== null && html`<${IconButton} icon="reset" label=${`Reset ${label} to the default`} onClick=${() => form.set({ [name]: null })} />`}
    <input ...${control(name)} id=${`${name}-number`} type="number" aria-label=${`${label} as a number`} ...${common} onChange=${setNumber(name)} />`;
  return html`<${Field} field=${name} label=${label} beside=${beside}>
    <input id=${name} type="range" ...${common} onInput=${setNumber(name)} title=${hint} />
  <//>`;
}

export function Choice({ name, label, options, value, none }) {
  const set = (event) => form.set({ [name]: event.target.value || null });
  return html`<${Field} field=${name} label=${label}>
    <select ...${control(name)} value=${options.includes(value) ? value : ""} onChange=${set}>
      ${none && html`<option value="">${none}</option>`}
      ${options.map((option) => html`<option key=${option} value=${option}>${option}</option>`)}
    </select>
  <//>`;
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
    ${chosen.map((lora, index) => html`<div key=${lora.name} class="lora">
      <span>${lora.name}</span>
      <input ...${control(`loras/${index}/scale`)} type="number" min="-2" max="2" step="0.05" value=${lora.scale} aria-label=${`Strength of ${lora.name}`} onChange=${(event) => scale(lora, event.target.value)} />
      <${IconButton} icon="close" label=${`Remove ${lora.name}`} onClick=${() => form.set({ loras: chosen.filter((other) => other !== lora) })} />
      <${FieldError} field=${`loras/${index}/scale`} />
    </div>`)}
    ${chosen.length < MOST_LORAS && free.length > 0 && html`<select aria-label="Add a LoRA" onChange=${add}>
      <option value="">Add…</option>
      ${free.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
    </select>`}
  </fieldset>`;
}
