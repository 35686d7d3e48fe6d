// The form: a prompt, a model, and only the controls that this model has.
import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/htm-preact.js";
import { Problem, session } from "../state/api.js";
import { countOf, form, history, isChanged, MAX_SEED, requestOf, resetForm, showErrors } from "../state/form.js";
import { submit } from "../state/jobs.js";
import { findModel, models, whenKnown } from "../state/models.js";
import { announce } from "../state/notices.js";
import { useStore } from "../state/store.js";
import { Choice, control, Field, Loras, Range, setNumber } from "./controls.js";
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
  // Those of the last model stay until those of this one are known, and with them what is open.
  const controls = useRef(null);
  if (models.get().controls[model?.name] !== null) controls.current = model?.controls;
  const isReadOnly = rights?.may_write === false;
  const generate = async (event) => {
    event?.preventDefault();
    if (status.isBusy) return;
    setStatus({ isBusy: true, problem: "" });
    setStatus({ isBusy: false, problem: await submitForm() });
  };
  const onKeyDown = (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    // A number counts when its field is left.
    if (event.target.type === "number") event.target.blur(), event.target.focus();
    generate(event);
  };
  useEffect(focusError, [state.errors]);
  return html`<form class="create" aria-label="Create" noValidate onSubmit=${generate} onKeyDown=${onKeyDown}>
    <div class="create-scroll">
      <${Prompt} value=${state.prompt} />
      <${ModelPicker} chosen=${model} />
      ${controls.current && html`<${Settings} state=${state} controls=${controls.current} />`}
    </div>
    <div class="create-bar">
      ${status.problem && html`<p class="problem" role="alert">${status.problem}</p>`}
      ${isReadOnly && html`<p class="hint">This key is read-only: it cannot make images.</p>`}
      ${model?.isPaid && html`<${Price} key=${model.name} model=${model} count=${countOf(state, controls.current)} />`}
      <button type="submit" class="primary generate" disabled=${isReadOnly || (list && !model)}>${status.isBusy ? "Sending…" : "Generate"} <kbd>Ctrl ↵</kbd></button>
    </div>
  </form>`;
}

// What is wrong beside the errors of fields, in words.
async function submitForm() {
  const state = form.get();
  try {
    if (!state.prompt.trim()) throw new Problem({ errors: [{ field: "prompt", detail: "Say what the image should show." }] });
    history.add(state.prompt);
    await submit(requestOf(state, await whenKnown(state.model)));
    announce("Generating");
    showStage();
    return showErrors({ message: "" }, state);
  } catch (error) {
    return showErrors(error, state);
  }
}

function focusError() {
  const first = document.querySelector(".create [aria-invalid]");
  first?.closest("details")?.setAttribute("open", "");
  first?.focus();
  first?.closest(".field").scrollIntoView({ block: "nearest" });
}

// On a phone the current job is above the form.
function showStage() {
  if (document.querySelector(".stage").getBoundingClientRect().top < 0) scrollTo(0, 0);
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
  return html`<${Field} field="prompt" label="Prompt" className="prompt">
    <textarea ...${control("prompt")} ref=${area} rows="4" required placeholder="What should the image show?" value=${value}
      onInput=${(event) => form.set({ prompt: event.target.value })} onKeyDown=${onKeyDown} />
  <//>`;
}

function Settings({ state, controls }) {
  const setCount = ({ target }) => form.set({ num_images: Math.max(1, Math.round(Number(target.value))) });
  return html`<div class="settings">
    ${controls.negative_prompt && html`<${Field} field="negative_prompt" label="Negative prompt">
      <textarea ...${control("negative_prompt")} rows="1" placeholder="What it should not show" value=${state.negative_prompt} onInput=${(event) => form.set({ negative_prompt: event.target.value })} />
    <//>`}
    <${Size} state=${state} controls=${controls} />
    <div class="pair">
      <${Field} field="num_images" label="Images">
        <input ...${control("num_images")} type="number" min="1" max=${controls.num_images} value=${countOf(state, controls)} onChange=${setCount} />
      <//>
      <${Field} field="seed" label="Seed">
        <div class="with-button">
          <input ...${control("seed")} type="number" min="0" max=${MAX_SEED} value=${state.seed ?? ""} placeholder="random" onChange=${setNumber("seed")} />
          <${IconButton} icon="dice" label="Random seed" isPressed=${state.seed === null} onClick=${() => form.set({ seed: null })} />
        </div>
      <//>
    </div>
    ${controls.images > 0 && html`<${Inputs} state=${state} controls=${controls} />`}
    <${More} state=${state} controls=${controls} />
  </div>`;
}

function More({ state, controls }) {
  const { num_inference_steps: steps, guidance_scale: guidance, schedulers, loras } = controls;
  return html`<details class="more">
    <summary>More settings</summary>
    ${steps && html`<${Range} name="num_inference_steps" label="Steps" hint="More steps take longer" range=${steps} value=${state.num_inference_steps} />`}
    ${guidance && html`<${Range} name="guidance_scale" label="Guidance" hint="How closely the image follows the prompt" range=${guidance} value=${state.guidance_scale} />`}
    ${schedulers.length > 0 && html`<${Choice} name="scheduler" label="Scheduler" options=${schedulers} value=${state.scheduler} none="Default of the model" />`}
    ${loras.length > 0 && html`<${Loras} names=${loras} chosen=${state.loras} />`}
    <${Choice} name="output_format" label="File format" options=${["png", "jpeg", "webp"]} value=${state.output_format} />
    <${Field} field="label" label="Label">
      <input ...${control("label")} maxlength="128" value=${state.label} placeholder="To find it again" onInput=${(event) => form.set({ label: event.target.value })} />
    <//>
    <button type="button" class="plain" disabled=${!isChanged(state)} onClick=${resetForm}>Reset all settings</button>
  </details>`;
}
