// The models of the service, and the controls that each of them has. The only file that knows how the API lists models.
import { regularly, send, sendJson } from "./api.js";
import { createStore } from "./store.js";

const REFRESH_MS = 5_000;

// `list` has the models as the API lists them, each with its backend; null until it is loaded. `controls` has those of
// models that were chosen; null while the service is asked, and false where it does not know them.
export const models = createStore({ list: null, controls: {}, backends: [], defaultName: "" });

let shown = "";

export async function loadModels() {
  const [listed, status] = await Promise.all([sendJson("/api/models"), sendJson("/api/backends")]);
  // Views render only what has changed.
  const text = JSON.stringify([listed, status]);
  if (text === shown) return;
  shown = text;
  const backends = new Map(status.backends.map((backend) => [backend.name, backend]));
  const list = listed.models.map((model) => ({
    ...model,
    backend: backends.get(model.backend),
    isPaid: model.backend === "flux-api",
    download: backends.get(model.backend)?.workers.map((worker) => worker.download).find((one) => one?.model === model.name),
  }));
  const first = list.find((model) => model.backend?.name === status.default && model.is_default) ?? list[0];
  models.set({ list, backends: status.backends, defaultName: first?.name ?? "" });
}

// Keep the list fresh while the page is visible.
export function followModels() {
  regularly(() => loadModels().catch(() => {}), REFRESH_MS);
  return loadModels();
}

// The model of this name, or else the default one, with its controls once they are known.
export function findModel(name) {
  const { list, defaultName, controls } = models.get();
  const model = list?.find((one) => one.name === name) ?? list?.find((one) => one.name === defaultName);
  if (!model) return null;
  if (controls[model.name] === undefined) loadControls(model.name);
  return { ...model, controls: controls[model.name] || null };
}

// The same, as soon as the service has said what there is to say.
export function whenKnown(name) {
  return new Promise((resolve) => {
    const stop = models.subscribe(look);
    function look() {
      const model = findModel(name);
      if (!model || models.get().controls[model.name] === null) return;
      stop();
      resolve(model);
    }
    look();
  });
}

const pathOf = (name) => `/api/models/${name.split("/").map(encodeURIComponent).join("/")}`;

// For administrators: `action` is load, unload or pin.
export async function manageModel(name, action, method) {
  await send(`${pathOf(name)}/${action}`, { method });
  await loadModels();
}

async function loadControls(name) {
  const set = (value) => models.set(({ controls }) => ({ controls: { ...controls, [name]: value } }));
  set(null);
  const { capabilities: schema } = await sendJson(pathOf(name)).catch(() => ({}));
  set(schema ? controlsOf(schema.properties) : false);
  if (!schema) setTimeout(() => set(undefined), REFRESH_MS);
}

// What the JSON Schema of a model says about each control; null for a control that it does not have.
function controlsOf(fields) {
  const has = (name) => fields[name] && !fields[name]["x-ignored"] && fields[name].type !== "null";
  const range = (name) => (has(name) && fields[name].default != null ? rangeOf(fields[name]) : null);
  const images = fields.image?.anyOf ? (fields.image.anyOf.find((kind) => kind.maxItems)?.maxItems ?? 1) : 0;
  return {
    width: rangeOf(fields.width), height: rangeOf(fields.height), negative_prompt: has("negative_prompt"),
    num_inference_steps: range("num_inference_steps"), guidance_scale: range("guidance_scale"),
    strength: images ? range("strength") : null, num_images: fields.num_images?.maximum ?? 1, images,
    mask: images > 0 && Boolean(fields.mask?.anyOf),
    schedulers: has("scheduler") ? (fields.scheduler.enum ?? []).filter(Boolean) : [],
    loras: has("loras") ? (fields.loras.items?.properties.name.enum ?? []) : [],
  };
}

function rangeOf(field) {
  return {
    min: field.minimum ?? field.exclusiveMinimum ?? 0, max: field.maximum ?? 100,
    step: field.multipleOf ?? (field.type?.includes("integer") ? 1 : 0.05), default: field.default,
  };
}
