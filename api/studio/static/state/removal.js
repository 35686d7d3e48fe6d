// Deleting jobs: hidden at once, and deleted when nobody has undone it for some seconds or when the page is left.
import { send } from "./api.js";
import { plural } from "./format.js";
import { forget, isUnfinished, jobs, setPinned } from "./jobs.js";
import { announce, notify, notifyProblem } from "./notices.js";

const UNDO_MS = 6_000;

export function removeWithUndo(ids) {
  const wanted = ids.filter((id) => !isUnfinished(jobs.get().byId.get(id)?.state));
  if (!wanted.length) return notify("Only finished jobs can be deleted; cancel this one first.");
  // Who leaves the page has time for one request, which deletes no job with a star.
  const starred = wanted.filter((id) => jobs.get().byId.get(id)?.pinned);
  starred.forEach((id) => setPinned(id, false));
  setHidden(wanted, true);
  const timer = setTimeout(() => purge(wanted), UNDO_MS);
  const images = wanted.flatMap((id) => jobs.get().byId.get(id)?.images ?? []).length;
  const undo = () => {
    clearTimeout(timer);
    setHidden(wanted, false);
    starred.forEach((id) => setPinned(id, true));
    announce("Restored");
  };
  const text = images ? plural(images, "image") : plural(wanted.length, "job");
  notify(`${text} deleted`, { action: { label: "Undo", run: undo } });
}

function setHidden(ids, isHidden) {
  const hidden = new Set(jobs.get().hidden);
  for (const id of ids) isHidden ? hidden.add(id) : hidden.delete(id);
  jobs.set({ hidden });
}

async function purge(ids) {
  for (const id of ids) {
    const error = await send(`/api/jobs/${id}?purge=true`, { method: "DELETE", keepalive: true }).then(() => null, (problem) => problem);
    if (error && error.status !== 404) notifyProblem(error);
    else forget(id);
    setHidden([id], false);
  }
}

window.addEventListener("pagehide", () => jobs.get().hidden.forEach((id) => purge([id])));
