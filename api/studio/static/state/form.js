// What the form holds, and the request that it becomes. null stands for the default of the model.
import { models } from "./models.js";
import { notify } from "./notices.js";
import { createStore, keep, recall } from "./store.js";

const SAVED = "form";
const HISTORY = "prompts";
const MAX_HISTORY = 50;
export const MAX_SEED = 2 ** 32 - 1;

const EMPTY = {
  prompt: "", negative: "", label: "",
  model: null, width: null, height: null, steps: null, guidance: null, strength: null, scheduler: null, seed: null,
  count: 1, loras: [], format: "png",
};
// Images stay in memory: they are too large to be saved. Each is {name, url (data:), width, height}.
export const NO_IMAGES = { images: [], mask: null };

export const form = createStore({ ...EMPTY, ...recall("localStorage", SAVED, {}), ...NO_IMAGES });
form.subscribe(() => {
  const { images, mask, ...rest } = form.get();
  keep("localStorage", SAVED, rest);
});

// Call it before what was typed or chosen is replaced.
function offerUndo(said) {
  const before = form.get();
  if (before.prompt || isChanged(before)) notify(said, { action: { label: "Undo", run: () => form.set(before) } });
}

export function resetForm() {
  offerUndo("All settings are reset");
  const { prompt, model, images, mask } = form.get();
  form.set({ ...EMPTY, prompt, model, images, mask });
}

export function isChanged({ prompt, model, images, mask, ...rest }) {
  return Object.entries(rest).some(([name, value]) => JSON.stringify(value) !== JSON.stringify(EMPTY[name]));
}

export const countOf = (state, controls) => Math.min(state.count, controls?.count ?? 1);

// The request that the form stands for, with only what this model has and what was chosen.
export function requestOf(state, { name, controls }) {
  const chosen = {
    negative_prompt: controls?.negative && state.negative.trim() ? state.negative : null, width: state.width,
    height: state.height, num_inference_steps: controls?.steps ? state.steps : null,
    guidance_scale: controls?.guidance ? state.guidance : null,
    scheduler: controls?.schedulers.includes(state.scheduler) ? state.scheduler : null, seed: state.seed,
    num_images: countOf(state, controls) > 1 ? countOf(state, controls) : null, loras: lorasOf(state, controls),
    output_format: state.format === "png" ? null : state.format, label: state.label.trim() || null,
    ...inputsOf(state, controls),
  };
  const given = Object.entries(chosen).filter(([, value]) => value !== null && value !== undefined);
  return { prompt: state.prompt, model: name, ...Object.fromEntries(given) };
}

function lorasOf(state, controls) {
  const known = state.loras.filter((lora) => controls?.loras.includes(lora.name));
  return known.length ? known : null;
}

function inputsOf(state, controls) {
  if (!controls?.images || !state.images.length) return {};
  const images = state.images.slice(0, controls.images).map((image) => image.url);
  return {
    image: images.length === 1 ? images[0] : images, mask: controls.mask ? state.mask : null,
    strength: controls.strength ? state.strength : null,
  };
}

// Fill the form from the request of a job or the recipe of a file. `parts`: "all", "prompt" or "seed".
export function fillForm(request, parts = "all") {
  offerUndo("The form is filled in");
  if (parts === "seed") return form.set({ seed: request.seed ?? null });
  const prompts = { prompt: request.prompt ?? "", negative: request.negative_prompt ?? "" };
  if (parts === "prompt") return form.set(prompts);
  form.set({
    ...EMPTY, ...prompts, model: knownModel(request.bfl_model ?? request.model),
    width: request.width ?? null, height: request.height ?? null,
    steps: request.num_inference_steps ?? null, guidance: request.guidance_scale ?? null,
    strength: request.strength ?? null, scheduler: request.scheduler ?? null,
    seed: knownSeed(request.seed), count: request.num_images ?? 1,
    loras: request.loras ?? [], format: request.output_format ?? "png",
  });
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
