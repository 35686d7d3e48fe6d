// What people do with an image that is there: use it, vary it, run it again, save it.
import { imageUrl, sendJson, send } from "./api.js";
import { fillForm, form, NO_IMAGES } from "./form.js";
import { readImage } from "./images.js";
import { submit } from "./jobs.js";
import { whenKnown } from "./models.js";
import { notify, notifyProblem } from "./notices.js";

const MOST_AT_ONCE = 100;

// Take over the settings of a job: "all", "prompt" or "seed".
export const reuse = reporting(async (job, parts = "all", seed = job.seed) => {
  const { request, missing } = await requestOfJob(job);
  fillForm({ ...request, seed }, parts);
  if (parts === "all" && missing.length) notify("Input images are not kept: add them again.");
  else if (parts === "all") form.set(NO_IMAGES);
  focusPrompt();
});

// The same once more, with another seed.
export const vary = (job) => repeat(job, ({ seed, ...request }) => request);

export const runAgain = (job) => repeat(job, (request) => request);

const repeat = reporting(async (job, change) => {
  const { request, missing } = await requestOfJob(job);
  if (!missing.length) return submit(change(request));
  fillForm(change(request));
  focusPrompt();
  notify("Input images are not kept: add them and generate.");
});

export const requestOfJob = (job) => sendJson(`/api/jobs/${job.id}/request`);

export const useAsInput = reporting(async (job, image) => {
  const url = imageUrl(image);
  const file = await (await send(url.slice(url.indexOf("/api/jobs/")))).blob();
  await addInput(await readImage(file, job.title.slice(0, 40)));
});

export const addFiles = reporting(async (files) => {
  for (const file of files) await addInput(await readImage(file, file.name));
});

async function addInput(image) {
  const most = (await whenKnown(form.get().model)).controls?.images ?? 0;
  const state = form.get();
  if (!most) return notify("This model takes no images; choose one that does.");
  const images = most === 1 ? [image] : [...state.images, image].slice(-most);
  form.set({ images, mask: images[0] === state.images[0] ? state.mask : null });
  notify("Added as input");
}

export const focusPrompt = () => document.getElementById("prompt")?.focus();

// `work`, with a notice where it fails.
export function reporting(work) {
  return (...given) => work(...given).catch(notifyProblem);
}

export function downloadImage(job, image) {
  save(imageUrl(image), `${job.id}-${image.index}.${image.media_type.split("/")[1]}`);
}

export const downloadImages = reporting(async (ids) => {
  if (ids.length > MOST_AT_ONCE) notify(`The file has the first ${MOST_AT_ONCE} of ${ids.length} jobs.`);
  const query = ids.slice(0, MOST_AT_ONCE).map((id) => `job=${id}`).join("&");
  const url = URL.createObjectURL(await (await send(`/api/images.zip?${query}`)).blob());
  save(url, "images.zip");
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
});

function save(url, name) {
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: name });
  link.click();
}
