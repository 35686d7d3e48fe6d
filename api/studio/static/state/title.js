// The title and the icon of the tab tell how far the jobs of this tab are, and when they are done.
import { FILES } from "./api.js";
import { jobs, openOfTab } from "./jobs.js";

const NAME = "imagegen";
let ended = 0;
let isDone = false;

export function followTitle() {
  jobs.subscribe(update);
  window.addEventListener("focus", () => {
    isDone = false;
    update();
  });
}

function update() {
  const { byId, mine } = jobs.get();
  const open = openOfTab(jobs.get()).map((id) => byId.get(id));
  const endedNow = mine.filter((id) => byId.has(id)).length - open.length;
  // A quick job may have ended before the page hears that it was accepted.
  if (endedNow > ended && !open.length && !document.hasFocus()) isDone = true;
  ended = endedNow;
  const fraction = open.reduce((sum, job) => sum + (job.progress?.fraction ?? 0), 0) / (open.length || 1);
  const title = open.length ? `${Math.round(100 * fraction)} % · ${NAME}` : isDone ? `Done · ${NAME}` : NAME;
  if (document.title !== title) document.title = title;
  const link = document.querySelector("link[rel=icon]");
  const url = `${FILES}${open.length ? "icon-busy.svg" : isDone ? "icon-done.svg" : "icon.svg"}`;
  if (link.getAttribute("href") !== url) link.setAttribute("href", url);
}
