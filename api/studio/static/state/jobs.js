// All jobs that this page knows: the gallery's list, and live changes from the event stream.
import { regularly, sendJson } from "./api.js";
import { announce, notifyProblem } from "./notices.js";
import { createStore, keep, recall } from "./store.js";

const PAGE = 100;
const SAVED = "jobs";
const RETRY_MS = 2_000;
const WAITING_MS = 2_000;
const MOST_WAITING = 5;
export const isUnfinished = (state) => state === "queued" || state === "running";
// The jobs of this tab that have not ended. A reload of the page goes on with them.
export const openOfTab = ({ byId, mine }) => mine.filter((id) => isUnfinished(byId.get(id)?.state));
// The current job, or else another one that has not ended.
export const shownJob = (state) => state.byId.get(state.hidden.has(state.current) ? null : state.current) ?? state.byId.get(openOfTab(state)[0]);
const reloaded = recall("sessionStorage", SAVED, []);
addEventListener("pagehide", () => keep("sessionStorage", SAVED, openOfTab(jobs.get())));

// `byId` is changed in place, with a new object for each changed job. `ids` is the gallery's list, newest first.
// `mine` holds the jobs of this tab, and `current` is the one that the stage shows.
export const jobs = createStore({
  byId: new Map(), ids: [], hidden: new Set(), mine: reloaded, current: reloaded[0] ?? null,
  filter: { q: "", model: "", state: "", pinned: false },
  cursor: null, isLoading: false, isComplete: false, error: "",
});

// A prompt may be a space: upscaling, for one, needs none.
export const titleOf = ({ request, label }) => request.prompt.trim() || label || "Image without a prompt";

// What the page keeps of each job: a fifth of what the API sends.
function slim(job) {
  const { id, state, model, pinned, label, error, warnings, request } = job;
  return {
    id, state, model, pinned, label, error, warnings,
    prompt: request.prompt, title: titleOf(job), seed: request.seed, width: request.width, height: request.height,
    images: job.images.filter((image) => image.url),
    progress: job.progress, position: job.queue_position, wait: job.estimated_wait_seconds, load: job.loading,
  };
}

function put(job) {
  const { byId } = jobs.get();
  const known = byId.get(job.id);
  // The answer to a request may arrive after an event that is newer.
  if (known && !isUnfinished(known.state) && isUnfinished(job.state)) return known;
  const kept = job.state === "running" ? { preview: known?.preview, progress: job.progress ?? known?.progress } : {};
  const next = { ...job, ...kept };
  byId.set(job.id, next);
  return next;
}

function patch(id, changes) {
  const { byId } = jobs.get();
  if (!byId.has(id)) return;
  byId.set(id, { ...byId.get(id), ...changes });
  jobs.set({});
}

function matches(job, { q, model, state, pinned }) {
  const text = `${job.prompt}\n${job.label ?? ""}`.toLowerCase();
  const isFound = q.toLowerCase().split(/\s+/).every((word) => text.includes(word)) && (!model || job.model === model);
  return isFound && (!state || job.state === state) && (!pinned || job.pinned) && hasPlace(job, state);
}

// Cancelled jobs have nothing to show, so only a filter for them lists them.
const hasPlace = (job, wantedState) => job.state !== "cancelled" || wantedState === "cancelled";

// Take over a page of the service's list. Returns the ids of the jobs that the gallery shows.
function take(page, { state }) {
  return page.jobs.map((job) => put(slim(job))).filter((job) => hasPlace(job, state)).map((job) => job.id);
}

// Ids begin with the time of creation, so sorting them sorts the jobs. Jobs older than the list belong to a later page.
function listed(ids, job, { filter, isComplete }) {
  const isListed = ids.includes(job.id);
  if (!matches(job, filter)) return isListed ? ids.filter((id) => id !== job.id) : ids;
  const isOlder = ids.length > 0 && job.id < ids.at(-1);
  if (isListed || (isOlder && !isComplete)) return ids;
  if (!ids.length || job.id > ids[0]) return [job.id, ...ids];
  return [...ids, job.id].sort().reverse();
}

export function upsert(full) {
  const job = put(slim(full));
  const state = jobs.get();
  jobs.set({ ids: listed(state.ids, job, state) });
  return job;
}

const handlers = {
  sync: () => reload(),
  state: (job) => upsert(job),
  progress({ id, ...progress }) {
    const { mine, byId } = jobs.get();
    // An answer that is older than its last event may have said that it is queued.
    if (isUnfinished(byId.get(id)?.state)) patch(id, { progress, state: "running" });
    if (mine.includes(id) && isHalf(progress)) announce(`Half done: step ${progress.step} of ${progress.steps}`);
  },
  loading: ({ id, ...load }) => patch(id, { load }),
  preview: ({ id, media_type: type, b64_json: data }) => patch(id, { preview: `data:${type};base64,${data}` }),
  done(full) {
    const wasUnfinished = isUnfinished(jobs.get().byId.get(full.id)?.state);
    const job = upsert(full);
    if (wasUnfinished && jobs.get().mine.includes(job.id)) announce(endOf(job));
  },
};

// For measurements. Browsers would keep each for as long as the page is open.
export function mark(name) {
  performance.clearMarks(`imagegen:${name}`);
  performance.mark(`imagegen:${name}`);
}

export function handleEvent(type, data) {
  mark(type);
  handlers[type]?.(data);
}

const isHalf = ({ step, steps }) => step / steps >= 0.5 && (step - 1) / steps < 0.5;

function endOf(job) {
  if (job.state === "succeeded") return `Done: ${job.title}`;
  return job.state === "cancelled" ? "Cancelled" : `Failed: ${job.error?.detail ?? ""}`;
}

let retry = 0;

// Read the first page again, and every job that this page believes to be unfinished. What is shown stays meanwhile.
// Repeated until it succeeds, because the events of that time do not come again.
async function reload() {
  clearTimeout(retry);
  const { byId, filter, ids, mine } = jobs.get();
  const open = [...byId.values()].filter((job) => isUnfinished(job.state)).map((job) => job.id);
  open.push(...mine.filter((id) => !byId.has(id)));
  try {
    const page = await sendJson(`/api/jobs?${queryOf(filter, null)}`);
    if (jobs.get().filter === filter) replaceFirst(page, new Set(ids));
    for (const id of open) await read(id);
  } catch (error) {
    jobs.set({ error: error.message });
    if (error.status !== 401) retry = setTimeout(reload, RETRY_MS);
  }
}

// Jobs that arrived after `before` stay in the list. So do older ones, unless there may be others between them and this page.
function replaceFirst(page, before) {
  const { ids, filter } = jobs.get();
  const first = take(page, filter);
  const newer = ids.filter((id) => !before.has(id) && !(id <= first[0]));
  const older = page.cursor === null ? [] : ids.filter((id) => id < first.at(-1));
  if (older.length && first.some((id) => before.has(id))) return jobs.set({ ids: [...newer, ...first, ...older], error: "" });
  jobs.set({ ids: [...newer, ...first], cursor: page.cursor, isComplete: page.cursor === null, error: "" });
  if (!first.length) loadMore();
}

// All that the service knows of a job; undefined if it is deleted.
export async function read(id) {
  const full = await sendJson(`/api/jobs/${id}`).catch((error) => {
    if (error.status !== 404) throw error;
  });
  full ? upsert(full) : forget(id);
  return full;
}

// No event tells that a job of this tab has fewer jobs before it.
export function followQueue() {
  regularly(() => {
    const { byId, mine } = jobs.get();
    const waiting = mine.filter((id) => byId.get(id)?.state === "queued");
    for (const id of waiting.slice(-MOST_WAITING)) refreshPlace(id, byId.get(id));
  }, WAITING_MS);
}

async function refreshPlace(id, known) {
  const { state, queue_position: position, estimated_wait_seconds: wait } = await sendJson(`/api/jobs/${id}`).catch(() => ({}));
  // An event that came meanwhile is newer.
  if (state === "queued" && jobs.get().byId.get(id) === known) patch(id, { position, wait });
}

export function forget(id) {
  const without = (list) => list.filter((other) => other !== id);
  jobs.get().byId.delete(id);
  jobs.set(({ ids, mine, current }) => ({ ids: without(ids), mine: without(mine), current: current === id ? null : current }));
}

export function setFilter(changes) {
  jobs.set(({ filter }) => ({ filter: { ...filter, ...changes }, ids: [], cursor: null, isComplete: false }));
  loading = null;
  return loadMore();
}

let loading = null;

// Load the next page. A search may return empty pages, whose cursor goes on.
export function loadMore() {
  const { isComplete } = jobs.get();
  if (isComplete || loading) return loading;
  const token = loadPages().finally(() => {
    if (loading === token) loading = null;
  });
  loading = token;
  return token;
}

async function loadPages() {
  const { filter } = jobs.get();
  jobs.set({ isLoading: true, error: "" });
  try {
    let found = 0;
    do {
      const { cursor } = jobs.get();
      const page = await sendJson(`/api/jobs?${queryOf(filter, cursor)}`);
      if (jobs.get().filter !== filter) return;
      // The list was read again meanwhile.
      if (jobs.get().cursor !== cursor) continue;
      found += append(page);
    } while (!found && !jobs.get().isComplete);
  } catch (error) {
    jobs.set({ error: error.message });
  } finally {
    if (jobs.get().filter === filter) jobs.set({ isLoading: false });
  }
}

function queryOf({ q, model, state, pinned }, cursor) {
  const query = new URLSearchParams({ limit: PAGE });
  if (q.trim()) query.set("q", q.trim());
  for (const [name, value] of Object.entries({ model, state, pinned, cursor })) if (value) query.set(name, value);
  return query;
}

// How many jobs it adds.
function append(page) {
  const { ids, filter } = jobs.get();
  const taken = take(page, filter);
  jobs.set({ ids: [...new Set([...ids, ...taken])], cursor: page.cursor, isComplete: page.cursor === null });
  return taken.length;
}

// A request without an answer may have been accepted. Sent again, it is known by its key.
let unanswered = {};

// Submit a request; the job appears at once.
export async function submit(request) {
  const text = JSON.stringify(request);
  const key = unanswered.text === text ? unanswered.key : (crypto.randomUUID?.() ?? String(Math.random()));
  const headers = { "Idempotency-Key": key };
  const full = await sendJson("/api/jobs", { method: "POST", body: request, headers }).catch((error) => {
    unanswered = { text, key };
    throw error;
  });
  unanswered = {};
  jobs.set(({ mine }) => ({ mine: [full.id, ...mine], current: full.id }));
  // What events said meanwhile is newer.
  return jobs.get().byId.get(full.id) ?? upsert(full);
}

export async function cancel(id) {
  try {
    upsert(await sendJson(`/api/jobs/${id}`, { method: "DELETE" }));
    jobs.set((state) => (state.current === id ? { current: openOfTab(state).findLast((other) => other !== id) ?? id } : {}));
  } catch (error) {
    if (error.code !== "invalid-transition") notifyProblem(error);
  }
}

export async function setPinned(id, pinned) {
  patch(id, { pinned });
  try {
    upsert(await sendJson(`/api/jobs/${id}/pin`, { method: pinned ? "PUT" : "DELETE", keepalive: true }));
  } catch (error) {
    patch(id, { pinned: !pinned });
    notifyProblem(error);
  }
}
