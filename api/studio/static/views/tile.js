// One job in the gallery.
import { html, useState } from "../vendor/htm-preact.js";
import { session } from "../state/api.js";
import { isUnfinished, jobs, setPinned } from "../state/jobs.js";
import { removeWithUndo } from "../state/removal.js";
import { useStore } from "../state/store.js";
import { IconButton } from "./icons.js";
import { runKey } from "./keys.js";
import { describeJob, Progress } from "./progress.js";
import { StoredImage } from "./stored-image.js";

const GONE = "The image is no longer stored";

export function Tile({ id, position, total, isTabStop, isSelected, isSelecting, onToggle, onOpen }) {
  const job = useStore(jobs, ({ byId }) => byId.get(id));
  const mayWrite = useStore(session, ({ rights }) => rights?.may_write !== false);
  const [isGone, setGone] = useState(false);
  if (!job) return null;
  const open = (event) => (isSelecting || event.ctrlKey || event.metaKey ? onToggle(id, event.shiftKey) : onOpen(id, job.images[0]?.index ?? 0));
  // A tile without an image is named by the text in it.
  const name = isGone || job.state !== "succeeded" ? null : job.title;
  return html`<li class=${`tile ${job.state} ${isSelected ? "selected" : ""}`} aria-posinset=${position} aria-setsize=${total}>
    <button type="button" class="tile-open" data-job=${id} tabindex=${isTabStop ? 0 : -1} aria-label=${name} onClick=${open}
      onKeyDown=${(event) => onKey(event, job, mayWrite, onToggle)}>
      <${Content} job=${job} isGone=${isGone} onGone=${() => setGone(true)} />
    </button>
    ${job.images.length > 1 && html`<span class="tile-count" aria-hidden="true">${job.images.length}</span>`}
    <label class="tile-select"><input type="checkbox" checked=${isSelected} tabindex="-1" aria-label=${`Select ${job.title}`} onClick=${(event) => onToggle(id, event.shiftKey)} /></label>
    ${mayWrite && job.state === "succeeded" && html`<span class=${`tile-star ${job.pinned ? "on" : ""}`}>
      <${IconButton} icon="star" label=${`${job.pinned ? "Remove the star from" : "Star"} ${job.title}`} isFilled=${job.pinned} isPressed=${job.pinned} tabindex="-1" onClick=${() => setPinned(id, !job.pinned)} />
    </span>`}
  </li>`;
}

function Content({ job, isGone, onGone }) {
  const [image] = job.images;
  const title = html`<span class=${job.preview ? "visually-hidden" : "tile-title"}>${job.title} </span>`;
  if (isGone) return html`<span class="tile-text">${title}<span class="tile-state">${GONE}</span></span>`;
  if (job.state === "succeeded" && image) {
    return html`<${StoredImage} image=${image} isThumbnail=${true} alt=${job.title} loading="lazy" decoding="async" onGone=${onGone} />`;
  }
  return html`<span class="tile-text">
    ${title}
    ${job.preview && html`<img src=${job.preview} alt="" />`}
    <span class="tile-state">${describeJob(job)}</span>
    ${isUnfinished(job.state) && html`<${Progress} job=${job} />`}
  </span>`;
}

function onKey(event, job, mayWrite, onToggle) {
  runKey(event, {
    x: () => onToggle(job.id, event.shiftKey),
    s: () => mayWrite && setPinned(job.id, !job.pinned),
    Delete: () => mayWrite && removeWithUndo([job.id]),
  });
}

// Arrow keys move through the grid, also to images that are not in sight yet. The focus of a deleted one goes to the next.
export function moveFocus(event, ids, { columns, pitch }, setFocused) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -ids.length, End: ids.length };
  const id = event.target.closest("[data-job]")?.dataset.job;
  if (event.key === "Delete" && jobs.get().hidden.has(id)) steps.Delete = id === ids.at(-1) ? -1 : 1;
  if (!id || !steps[event.key]) return;
  event.preventDefault();
  const index = Math.max(0, Math.min(ids.length - 1, ids.indexOf(id) + steps[event.key]));
  setFocused(ids[index]);
  const top = event.currentTarget.parentElement.getBoundingClientRect().top + Math.floor(index / columns) * pitch;
  if (top < 80 || top + pitch > innerHeight) window.scrollBy({ top: top - innerHeight / 2 + pitch / 2 });
  requestAnimationFrame(() => requestAnimationFrame(() => document.querySelector(`[data-job="${ids[index]}"]`)?.focus()));
}
