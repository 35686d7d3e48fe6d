// The models of the service, and the controls that each of them has. The only file that knows how the API lists models.
import { sendJson } from "./api.js";
import { createStore } from "./store.js";

const REFRESH_MS = 5_000;
const STATES = { ready: "loaded", busy: "loaded", loading: "loading", offline: "missing", unconfigured: "missing" };

// `list`: {name, backend, state, reason, download, isPaid, credits, queued, wait, controls}; null until it is loaded.
export const models = createStore({ list: null, workers: [], defaultName: "" });

export async function loadModels() {
  const { backends, default: preferred } = await sendJson("/api/backends");
  const list = backends.flatMap(modelsOf);
  const first = list.find((model) => model.backend === preferred && model.isDefault);
  const workers = backends.flatMap((backend) => backend.workers);
  models.set({ list, workers, defaultName: first?.name ?? list[0]?.name ?? "" });
}

// Keep the list fresh while the page is visible.
export function followModels() {
  setInterval(() => {
    if (!document.hidden) loadModels().catch(() => {});
  }, REFRESH_MS);
  return loadModels();
}

export function findModel(name) {
  const { list, defaultName } = models.get();
  return list?.find((model) => model.name === name) ?? list?.find((model) => model.name === defaultName) ?? null;
}

function modelsOf(backend) {
  const schema = backend.capabilities;
  const download = backend.workers.map((worker) => worker.download).find(Boolean);
  const shared = {
    backend: backend.name,
    state: download ? "downloading" : (STATES[backend.status] ?? "missing"),
    reason: backend.reason,
    download,
    isPaid: backend.name === "flux-api",
    credits: backend.credits,
    queued: backend.queued,
    wait: backend.estimated_wait_seconds,
    device: backend.device,
  };
  if (!schema) return backend.model ? [{ ...shared, name: backend.model, isDefault: true, controls: null }] : [];
  if (!schema.allOf) {
    const controls = controlsOf(schema.properties, schema["x-max-pixels"]);
    return [{ ...shared, name: backend.model, isDefault: true, controls }];
  }
  const preferred = schema.properties.bfl_model.default;
  return schema.allOf.map(({ title, then }) => ({
    ...shared,
    name: title,
    isDefault: title === preferred,
    controls: controlsOf({ ...schema.properties, ...then.properties }, then["x-max-pixels"]),
  }));
}

// The fields of a request that name this model.
export function modelFields(model) {
  if (model.backend === "flux-api") return { backend: model.backend, bfl_model: model.name };
  return { backend: model.backend };
}

// What the JSON Schema of a model says about each control; null for a control that it does not have.
function controlsOf(fields, maxPixels) {
  const has = (name) => fields[name] && !fields[name]["x-ignored"] && fields[name].type !== "null";
  const range = (name) => (has(name) && fields[name].default != null ? rangeOf(fields[name]) : null);
  const images = fields.image?.anyOf ? (fields.image.anyOf.find((kind) => kind.maxItems)?.maxItems ?? 1) : 0;
  return {
    width: rangeOf(fields.width),
    height: rangeOf(fields.height),
    maxPixels,
    negative: has("negative_prompt"),
    steps: range("num_inference_steps"),
    guidance: range("guidance_scale"),
    strength: images ? range("strength") : null,
    count: fields.num_images?.maximum ?? 1,
    images,
    mask: images > 0 && Boolean(fields.mask?.anyOf),
    schedulers: has("scheduler") ? (fields.scheduler.enum ?? []).filter(Boolean) : [],
    loras: has("loras") ? (fields.loras.items?.properties.name.enum ?? []) : [],
  };
}

function rangeOf(field) {
  return {
    min: field.minimum ?? field.exclusiveMinimum ?? 0,
    max: field.maximum ?? 100,
    step: field.multipleOf ?? (field.type?.includes("integer") ? 1 : 0.05),
    default: field.default,
  };
}
