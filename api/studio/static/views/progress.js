// How far a job is, in words and as a bar.
import { html } from "../vendor/htm-preact.js";
import { session } from "../state/api.js";
import { formatSeconds, plural, formatBytes } from "../state/format.js";
import { cancel } from "../state/jobs.js";
import { useStore } from "../state/store.js";

export function describeJob(job) {
  const { state, progress, position, wait, error } = job;
  if (state === "queued") return describeWait(job, position, wait);
  if (state === "running" && progress) {
    const left = progress.eta_seconds ? `, ${formatSeconds(progress.eta_seconds)} left` : "";
    return `Step ${progress.step} of ${progress.steps}${left}`;
  }
  if (state === "running") return "Starting…";
  if (state === "cancelled") return "Cancelled";
  if (state === "failed") return error?.detail ?? "Failed";
  return job.images.length ? "Done" : "Done, but all images were withheld";
}

function describeWait({ load }, position, wait) {
  if (load) return load.bytes_total ? `Loading the model: ${formatBytes(load.bytes_done)} of ${formatBytes(load.bytes_total)}` : "Loading the model";
  const ahead = position > 0 ? `${plural(position, "job")} ahead` : "Next in the queue";
  return wait ? `${ahead}, about ${formatSeconds(wait)}` : ahead;
}

export function Progress({ job }) {
  const fraction = job.state === "running" ? (job.progress?.fraction ?? 0) : null;
  // A bar that once had a value would stand still at none.
  return html`<progress key=${fraction === null} aria-label=${`Progress of ${job.title}`} max="1" value=${fraction ?? undefined} />`;
}

export function Unfinished({ job }) {
  const mayWrite = useStore(session, ({ rights }) => rights?.may_write !== false);
  return html`<div class="unfinished">
    <${Progress} job=${job} />
    ${mayWrite && html`<button type="button" onClick=${() => cancel(job.id)}>Cancel</button>`}
  </div>`;
}
