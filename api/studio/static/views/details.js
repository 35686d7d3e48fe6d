// All that is known of an image, and what to reuse of it.
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { reporting, requestOfJob, reuse, runAgain, useAsInput, vary } from "../state/actions.js";
import { formatBytes, formatSeconds, formatTime } from "../state/format.js";
import { read, titleOf } from "../state/jobs.js";
import { notify, notifyProblem } from "../state/notices.js";
import { copyText, languages } from "../state/snippets.js";
import { Icon } from "./icons.js";

export function Details({ id, state, index, mayWrite, onClose }) {
  const [job, setJob] = useState(null);
  useEffect(() => {
    const giveUp = (why) => {
      notify(why, { isError: true });
      onClose();
    };
    const show = (found) => (found ? setJob(found) : giveUp("This job is deleted."));
    read(id).then(show, (error) => (state ? notifyProblem(error) : giveUp(error.message)));
  }, [state]);
  if (!job) return html`<aside class="details"></aside>`;
  const known = { ...job, title: titleOf(job), prompt: job.request.prompt, seed: job.request.seed };
  const image = job.images.find((one) => one.url && one.index === index) ?? job.images.find((one) => one.url);
  const seed = image?.seed ?? known.seed;
  const leave = (action) => () => {
    onClose();
    action();
  };
  return html`<aside class="details" aria-label="Data of the image">
    <h2>${known.title}</h2>
    ${job.error && html`<p class="problem">${job.error.detail}</p>`}
    ${mayWrite && html`<div class="actions">
      <button type="button" onClick=${leave(() => vary(known))}><${Icon} name="vary" /> Vary</button>
      <button type="button" onClick=${leave(() => runAgain(known))}><${Icon} name="again" /> Again</button>
      ${image && html`<button type="button" onClick=${leave(() => useAsInput(known, image))}><${Icon} name="brush" /> Use as input</button>`}
    </div>
    <div class="actions" role="group" aria-label="Reuse">
      <span class="hint">Reuse</span>
      <button type="button" onClick=${leave(() => reuse(known, "all", seed))}>Everything</button>
      <button type="button" onClick=${leave(() => reuse(known, "prompt"))}>Prompt</button>
      <button type="button" onClick=${leave(() => reuse(known, "seed", seed))}>Seed</button>
    </div>`}
    <${Facts} job=${job} image=${image} seed=${seed} />
    <${Copy} job=${job} />
  </aside>`;
}

function Facts({ job, image, seed }) {
  const { request, timings } = job;
  const rows = [
    ["Model", job.model ?? job.backend], ["Seed", seed],
    ["Size", image ? `${image.width} × ${image.height}` : null],
    ["Negative prompt", request.negative_prompt], ["Steps", request.num_inference_steps],
    ["Guidance", request.guidance_scale], ["Scheduler", request.scheduler], ["Strength", request.strength],
    ["LoRAs", (request.loras ?? []).map((lora) => `${lora.name} (${lora.scale})`).join(", ")],
    ["Rendered in", timings.generate_ms === null ? null : formatSeconds(timings.generate_ms / 1000)],
    ["Waited", timings.queued_ms > 500 ? formatSeconds(timings.queued_ms / 1000) : null],
    ["Cost", job.providers.some((task) => task.cost) ? `${job.providers.reduce((sum, task) => sum + (task.cost ?? 0), 0)} credits` : null],
    ["Created", formatTime(job.created_at)], ["Label", job.label], ["Key", job.owner],
    ["File", image ? `${image.media_type.split("/")[1].toUpperCase()}, ${formatBytes(image.bytes)}` : null],
    ["Job", job.id],
  ];
  const known = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return html`<dl class="facts">
    ${known.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
    ${job.warnings.map((warning) => html`<div key=${warning}><dt>Note</dt><dd>${warning}</dd></div>`)}
  </dl>`;
}

function Copy({ job }) {
  const copy = reporting(async (name) => {
    const { request, missing } = await requestOfJob(job);
    await copyText(languages[name](request));
    notify(`Copied as ${name}${missing.length ? ", without its input images, which are not kept" : ""}`);
  });
  return html`<div class="actions" role="group" aria-label="Copy the request">
    <span class="hint"><${Icon} name="copy" /> Copy as</span>
    ${Object.keys(languages).map((name) => html`<button type="button" key=${name} onClick=${() => copy(name)}>${name}</button>`)}
  </div>`;
}
