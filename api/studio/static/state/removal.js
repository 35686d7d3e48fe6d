// Deleting jobs: hidden at once, and deleted when nobody has undone it for some seconds or when the page is left.
import { Problem, send } from "./api.js";
import { plural } from "./format.js";
import { forget, isUnfinished, jobs } from "./jobs.js";
import { announce, notify, notifyProblem } from "./notices.js";

const UNDO_MS = 6_000;
const doomed = new Map();

export function removeWithUndo(ids) {
  const wanted = ids.filter((id) => !isUnfinished(jobs.get().byId.get(id)?.state));
  if (!wanted.length) return notify("Only finished jobs can be deleted; cancel this one first.");
  setHidden(wanted, true);
  const timer = setTimeout(() => purge(wanted), UNDO_MS);
  for (const id of wanted) doomed.set(id, timer);
  const images = wanted.flatMap((id) => jobs.get().byId.get(id).images).length;
  const undo = () => {
    clearTimeout(timer);
    for (const id of wanted) doomed.delete(id);
    setHidden(wanted, false);
    announce("Restored");
    close();
  };
  const text = images ? plural(images, "image") : plural(wanted.length, "job");
  const close = notify(`${text} deleted`, { action: { label: "Undo", run: undo } });
}

function setHidden(ids, isHidden) {
  const hidden = new Set(jobs.get().hidden);
  for (const id of ids) isHidden ? hidden.add(id) : hidden.delete(id);
  jobs.set({ hidden });
}

async function purge(ids, options = {}) {
  for (const id of ids) {
    doomed.delete(id);
    try {
      if (jobs.get().byId.get(id)?.pinned) await send(`/api/jobs/${id}/pin`, { method: "DELETE", ...options });
      await send(`/api/jobs/${id}?purge=true`, { method: "DELETE", ...options });
    } catch (error) {
      if (error instanceof Problem && error.status !== 404) {
        setHidden([id], false);
        notifyProblem(error);
        continue;
      }
    }
    forget(id);
  }
}

window.addEventListener("pagehide", () => {
  for (const id of doomed.keys()) purge([id], { keepalive: true });
});
