// The form: a prompt, a model, and only the controls that this model has.
import { html, useLayoutEffect, useRef, useState } from "../vendor/htm-preact.js";
import { focusPrompt } from "../state/actions.js";
import { session } from "../state/api.js";
import { countOf, form, history, isChanged, MAX_SEED, requestOf, resetForm } from "../state/form.js";
import { submit } from "../state/jobs.js";
import { findModel, models, whenKnown } from "../state/models.js";
import { announce } from "../state/notices.js";
import { useStore } from "../state/store.js";
import { Choice, Loras, Range } from "./controls.js";
import { IconButton } from "./icons.js";
import { Inputs } from "./inputs.js";
import { ModelPicker, Price } from "./model-picker.js";
import { Size } from "./size.js";

export function Create() {
  const state = useStore(form);
  const rights = useStore(session, ({ rights }) => rights);
  const { list } = useStore(models);
  const [status, setStatus] = useState({ isBusy: false, problem: "" });
  const model = findModel(state.model);
  const isReadOnly = rights?.may_write === false;
  const generate = async (event) => {
    event?.preventDefault();
    if (status.isBusy) return;
    if (!form.get().prompt.trim()) {
      setStatus({ isBusy: false, problem: "Say what the image should show." });
      return focusPrompt();
    }
    setStatus({ isBusy: true, problem: "" });
    setStatus({ isBusy: false, problem: await submitForm() });
  };
  const onKeyDown = (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    // A number counts when its field is left.
    if (event.target.type === "number") event.target.blur(), event.target.focus();
    generate(event);
  };
  return html`<form class="create" aria-label="Create" noValidate onSubmit=${generate} onKeyDown=${onKeyDown}>
    <div class="create-scroll">
      <${Prompt} value=${state.prompt} />
      <${ModelPicker} chosen=${model} />
      ${model?.controls && html`<${Settings} state=${state} controls=${model.controls} />`}
    </div>
    <div class="create-bar">
      ${status.problem && html`<p class="problem" role="alert">${status.problem}</p>`}
      ${isReadOnly && html`<p class="hint">This key is read-only: it cannot make images.</p>`}
      ${model?.isPaid && html`<${Price} key=${model.name} model=${model} count=${countOf(state, model.controls)} />`}
      <button type="submit" class="primary generate" disabled=${isReadOnly || (list && !model)}>${status.isBusy ? "Sending…" : "Generate"} <kbd>Ctrl ↵</kbd></button>
    </div>
  </form>`;
}

// The problem in words, '' if there is none.
async function submitForm() {
  try {
    const state = form.get();
    history.add(state.prompt);
    await submit(requestOf(state, await whenKnown(state.model)));
    announce("Generating");
    showStage();
    return "";
  } catch (error) {
    return error.message;
  }
}

// On a phone the current job is above the form.
function showStage() {
  const stage = document.querySelector(".stage");
  if (stage.getBoundingClientRect().bottom < innerHeight / 2) scrollTo({ top: 0, behavior: "smooth" });
}

function Prompt({ value }) {
  const past = useRef({});
  const area = useRef();
  useLayoutEffect(() => area.current.focus(), []);
  const onKeyDown = (event) => {
    const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!event.altKey || !step) return;
    event.preventDefault();
    // What was typed last comes before all earlier prompts.
    const { at, draft } = past.current.shown === value ? past.current : { at: 0, draft: value };
    const prompts = [draft, ...history.all().filter((prompt) => prompt !== draft)];
    const next = Math.max(0, Math.min(prompts.length - 1, at + step));
    past.current = { at: next, draft, shown: prompts[next] };
    form.set({ prompt: prompts[next] });
  };
  return html`<div class="field prompt">
    <label for="prompt">Prompt</label>
    <textarea id="prompt" ref=${area} rows="4" required placeholder="What should the image show?" value=${value}
      onInput=${(event) => form.set({ prompt: event.target.value })} onKeyDown=${onKeyDown} />
  </div>`;
}

function Settings({ state, controls }) {
  return html`<div class="settings">
    ${controls.negative && html`<div class="field">
      <label for="negative">Negative prompt</label>
      <textarea id="negative" rows="1" placeholder="What it should not show" value=${state.negative} onInput=${(event) => form.set({ negative: event.target.value })} />
    </div>`}
    <${Size} state=${state} controls=${controls} />
    <div class="pair">
      <${Count} value=${countOf(state, controls)} most=${controls.count} />
      <${Seed} value=${state.seed} />
    </div>
    ${controls.images > 0 && html`<${Inputs} state=${state} controls=${controls} />`}
    <${More} state=${state} controls=${controls} />
  </div>`;
}

function More({ state, controls }) {
  const { steps, guidance, schedulers, loras } = controls;
  return html`<details class="more">
    <summary>More settings</summary>
    ${steps && html`<${Range} name="steps" label="Steps" hint="More steps take longer" range=${steps} value=${state.steps} />`}
    ${guidance && html`<${Range} name="guidance" label="Guidance" hint="How closely the image follows the prompt" range=${guidance} value=${state.guidance} />`}
    ${schedulers.length > 0 && html`<${Choice} name="scheduler" label="Scheduler" options=${schedulers} value=${state.scheduler} none="Default of the model" />`}
    ${loras.length > 0 && html`<${Loras} names=${loras} chosen=${state.loras} />`}
    <${Choice} name="format" label="File format" options=${["png", "jpeg", "webp"]} value=${state.format} />
    <div class="field">
      <div class="field-head"><label for="label">Label</label></div>
      <input id="label" maxlength="128" value=${state.label} placeholder="To find it again" onInput=${(event) => form.set({ label: event.target.value })} />
    </div>
    <button type="button" class="plain" disabled=${!isChanged(state)} onClick=${resetForm}>Reset all settings</button>
  </details>`;
}

function Count({ value, most }) {
  return html`<div class="field">
    <label for="count">Images</label>
    <input id="count" type="number" min="1" max=${most} value=${value} onChange=${(event) => form.set({ count: Math.max(1, Math.round(Number(event.target.value))) })} />
  </div>`;
}

function Seed({ value }) {
  const set = (event) => form.set({ seed: event.target.value === "" ? null : Number(event.target.value) });
  return html`<div class="field">
    <label for="seed">Seed</label>
    <div class="with-button">
      <input id="seed" type="number" min="0" max=${MAX_SEED} value=${value ?? ""} placeholder="random" onChange=${set} />
      <${IconButton} icon="dice" label="Random seed" isPressed=${value === null} onClick=${() => form.set({ seed: null })} />
    </div>
  </div>`;
}
