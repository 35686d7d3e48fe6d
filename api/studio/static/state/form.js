// What the form holds, by the names of a request's fields, and the request that it becomes. null stands for the default
// of the model.
import { messageOf } from "./api.js";
import { models } from "./models.js";
import { notify } from "./notices.js";
import { createStore, keep, recall } from "./store.js";

const SAVED = "form";
const HISTORY = "prompts";
const MAX_HISTORY = 50;
const OPTIONAL = ["negative_prompt", "num_inference_steps", "guidance_scale"];
export const MAX_SEED = 2 ** 32 - 1;

const EMPTY = {
  prompt: "", negative_prompt: "", label: "", model: null, width: null, height: null, num_inference_steps: null,
  guidance_scale: null, strength: null, scheduler: null, seed: null, num_images: 1, loras: [], output_format: "png",
};
// Images stay in memory: they are too large to be saved. Each is {name, url (data:), width, height}.
export const NO_IMAGES = { images: [], mask: null };

const valuesIn = (fields) => Object.fromEntries(Object.keys(EMPTY).map((name) => [name, fields[name] ?? EMPTY[name]]));
const chosenIn = (state) => Object.keys(EMPTY).filter((name) => JSON.stringify(state[name]) !== JSON.stringify(EMPTY[name]));

// `errors` has what the service refused last, by field: {detail, model, value}.
export const form = createStore({ ...valuesIn(recall("localStorage", SAVED, {})), ...NO_IMAGES, errors: {} });
form.subscribe(() => keep("localStorage", SAVED, valuesIn(form.get())));

// Call it before what was typed or chosen is replaced.
function offerUndo(said) {
  const before = form.get();
  if (before.prompt || isChanged(before)) notify(said, { action: { label: "Undo", run: () => form.set(before) } });
}

export function resetForm() {
  offerUndo("All settings are reset");
  const { prompt, model } = form.get();
  form.set({ ...EMPTY, prompt, model });
}

export const isChanged = (state) => chosenIn(state).some((name) => name !== "prompt" && name !== "model");

export const countOf = (state, controls) => Math.min(state.num_images, controls?.num_images ?? 1);

// The request that the form stands for, with only what this model has and what was chosen.
export function requestOf(state, { name, controls }) {
  const urls = state.images.slice(0, controls?.images ?? 0).map((image) => image.url);
  const fitting = {
    ...state, label: state.label.trim(), negative_prompt: state.negative_prompt.trim(),
    num_images: countOf(state, controls), loras: state.loras.filter((lora) => controls?.loras.includes(lora.name)),
    scheduler: controls?.schedulers.includes(state.scheduler) ? state.scheduler : null,
    image: urls.length > 1 ? urls : urls[0], mask: urls.length && controls.mask ? state.mask : null,
    strength: urls.length && controls.strength ? state.strength : null,
  };
  const isGiven = (field) => (fitting[field] ?? null) !== null && (!OPTIONAL.includes(field) || controls?.[field]);
  const given = [...chosenIn(fitting), "image", "mask"].filter(isGiven).map((field) => [field, fitting[field]]);
  return { ...Object.fromEntries(given), prompt: state.prompt, model: name };
}

const valueOf = (state, field) => state[field.split("/")[0]];

// Show each error below its field; what is left is returned in words.
export function showErrors({ message, errors = [] }, sent) {
  const shown = errors.filter(({ field }) => document.getElementById(field));
  form.set({ errors: Object.fromEntries(shown.map(({ field, detail }) => [field, { detail, model: sent.model, value: valueOf(sent, field) }])) });
  return shown.length ? messageOf(errors.filter((error) => !shown.includes(error))) : message;
}

// Until the field or the model is changed.
export function errorOf(field) {
  const state = form.get();
  const { detail, model, value } = state.errors[field] ?? {};
  return detail && model === state.model && value === valueOf(state, field) ? detail : undefined;
}

// Fill the form from the request of a job or the recipe of a file. `parts`: "all", "prompt" or "seed".
export function fillForm(request, parts = "all") {
  offerUndo("The form is filled in");
  const values = valuesIn(request);
  const { prompt, negative_prompt, seed } = values;
  if (parts === "seed") form.set({ seed });
  else if (parts === "prompt") form.set({ prompt, negative_prompt });
  else form.set({ ...values, label: "", model: knownModel(request.bfl_model ?? request.model), seed: knownSeed(seed) });
}

// Recipes of other programs name models that this service may not have.
function knownModel(name) {
  const { list } = models.get();
  if (!name || !list || list.some((model) => model.name === name)) return name || form.get().model;
  notify(`This service has no model ${name}: the chosen one stays.`);
  return form.get().model;
}

// Those of ComfyUI may be larger than this service takes.
function knownSeed(seed) {
  if (seed > MAX_SEED) notify(`The seed ${seed} is too large for this service: a random one is taken.`);
  return seed <= MAX_SEED ? seed : null;
}

export const history = {
  all: () => recall("localStorage", HISTORY, []),
  add(prompt) {
    const others = history.all().filter((known) => known !== prompt);
    keep("localStorage", HISTORY, [prompt, ...others].slice(0, MAX_HISTORY));
  },
};
