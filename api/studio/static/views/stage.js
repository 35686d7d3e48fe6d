// The job that was made last: its preview becoming clear, then its images and what can be done with them.
import { html } from "../vendor/htm-preact.js";
import { downloadImage, downloadImages, focusPrompt, runAgain, useAsInput, vary } from "../state/actions.js";
import { session } from "../state/api.js";
import { fillForm } from "../state/form.js";
import { cancel, isUnfinished, jobs, mark, openOfTab, setPinned, shownJob } from "../state/jobs.js";
import { useStore } from "../state/store.js";
import { Icon, IconButton } from "./icons.js";
import { describeJob, Progress, Unfinished } from "./progress.js";
import { StoredImage } from "./stored-image.js";

const EXAMPLES = ["a red heart on a blue background", "a penguin on a green background", "a yellow star on a purple background"];

export function Stage({ onOpen }) {
  const job = useStore(jobs, shownJob);
  return html`<section class="stage" aria-label="Current job">
    ${job ? html`<${Current} job=${job} onOpen=${onOpen} />` : html`<${Empty} />`}
  </section>`;
}

function Empty() {
  const use = (prompt) => {
    fillForm({ prompt }, "prompt");
    focusPrompt();
  };
  return html`<div class="stage-empty">
    <h2>Your next image appears here</h2>
    <p>Describe it, and press Generate. Or begin with an example:</p>
    <div class="examples">${EXAMPLES.map((prompt) => html`<button type="button" key=${prompt} onClick=${() => use(prompt)}>${prompt}</button>`)}</div>
  </div>`;
}

function Current({ job, onOpen }) {
  return html`<div class="stage-frame" data-state=${job.state}>
    <${Shown} job=${job} onOpen=${onOpen} />
    <div class="stage-side">
      <p class="stage-prompt">${job.title}</p>
      <p class=${`stage-state ${job.state}`}>${describeJob(job)}</p>
      ${job.images.length > 0 && html`<p class="hint">${job.width} × ${job.height}, seed ${job.seed}, ${job.model}</p>`}
      <${Others} shown=${job.id} />
      ${isUnfinished(job.state) ? html`<${Unfinished} job=${job} />` : html`<${Actions} job=${job} />`}
      ${(job.warnings ?? []).map((warning) => html`<p key=${warning} class="hint">${warning}</p>`)}
    </div>
  </div>`;
}

function Shown({ job, onOpen }) {
  if (job.state === "succeeded" && job.images.length) {
    return html`<div class=${`stage-images count-${Math.min(5, job.images.length)}`}>
      ${job.images.map((image) => html`<button type="button" key=${image.index} class="image-button" aria-label=${`Open image ${image.index + 1}: ${job.title}`} onClick=${() => onOpen(job.id, image.index)}>
        <${StoredImage} image=${image} alt=${job.title} width=${image.width} height=${image.height} />
      </button>`)}
    </div>`;
  }
  return html`<div class="stage-picture">
    ${job.preview ? html`<img src=${job.preview} alt=${`Preview of ${job.title}`} onLoad=${() => mark("preview-shown")} />` : html`<${Icon} name="image" />`}
  </div>`;
}

function Actions({ job }) {
  const mayWrite = useStore(session, ({ rights }) => rights?.may_write !== false);
  const [image] = job.images;
  const isOne = job.images.length === 1;
  return html`<div class="actions" role="group" aria-label="Actions">
    ${mayWrite && html`<button type="button" onClick=${() => vary(job)}><${Icon} name="vary" /> Vary</button>`}
    ${mayWrite && html`<button type="button" onClick=${() => runAgain(job)}><${Icon} name="again" /> Again</button>`}
    ${image && mayWrite && html`<button type="button" onClick=${() => useAsInput(job, image)}><${Icon} name="brush" /> Use as input</button>`}
    ${image && mayWrite && html`<${IconButton} icon="star" label=${job.pinned ? "Remove the star" : "Star"} isPressed=${job.pinned} isFilled=${job.pinned} onClick=${() => setPinned(job.id, !job.pinned)} />`}
    ${image && html`<${IconButton} icon="download" label=${isOne ? "Download" : `Download all ${job.images.length} images`} onClick=${() => (isOne ? downloadImage(job, image) : downloadImages([job.id]))} />`}
  </div>`;
}

function Others({ shown }) {
  const others = ({ byId, ...state }) => openOfTab({ byId, ...state }).filter((id) => id !== shown).map((id) => byId.get(id));
  useStore(jobs, (state) => others(state).map(({ id, state: name, progress }) => id + name + progress?.step).join());
  const open = others(jobs.get());
  return open.length > 0 && html`<ul class="others" aria-label="Other jobs of this tab">
    ${open.map((job) => html`<li key=${job.id}>
      <button type="button" class="plain" onClick=${() => jobs.set({ current: job.id })}>${job.title}</button>
      <${Progress} job=${job} />
      <${IconButton} icon="close" label=${`Cancel ${job.title}`} onClick=${() => cancel(job.id)} />
    </li>`)}
  </ul>`;
}
