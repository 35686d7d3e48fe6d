// Requests to the service. Every failure is a Problem with a sentence for people, and `errors` {field, detail}.
import { createStore, keep, recall } from "./store.js";

// Where the files of this page are, and the path of the service with the prefix that a proxy may add.
export const FILES = new URL("..", import.meta.url).pathname;
export const BASE = FILES.slice(0, FILES.lastIndexOf("/studio/"));
const KEY = "key";
const UNREACHABLE = "The service does not answer. Try again in a moment.";
const REFUSED = "The service does not accept this key.";

// `rights` is what GET /api/key says; null until it is known.
const savedKey = recall("sessionStorage", KEY, "");
const isLocked = !savedKey && document.documentElement.dataset.needsKey === "yes";
export const session = createStore({ key: savedKey, rights: null, isLocked, error: "" });

export class Problem extends Error {
  constructor({ code, detail, status = 0, errors = [] }) {
    super(detail);
    Object.assign(this, { code, status, errors });
  }
}

export function headersWith(extra = {}) {
  const { key } = session.get();
  return key ? { "X-API-Key": key, ...extra } : extra;
}

export async function send(path, { method = "GET", body, headers, ...options } = {}) {
  const all = headersWith({ ...(body ? { "Content-Type": "application/json" } : {}), ...headers });
  let answer;
  try {
    answer = await fetch(BASE + path, { method, headers: all, body: body && JSON.stringify(body), ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ code: "unreachable", detail: UNREACHABLE });
  }
  if (answer.ok) return answer;
  const problem = await problemOf(answer);
  if (problem.status === 401) lock();
  throw problem;
}

export const sendJson = async (path, options) => (await send(path, options)).json();

async function problemOf(answer) {
  const said = await answer.json().catch(() => ({}));
  const detail = said.detail || `The service answered ${answer.status}.`;
  const errors = (said.errors ?? []).map((error) => ({ field: error.pointer.slice(1), detail: error.detail }));
  // The detail tells the first of them.
  return new Problem({ ...said, errors, status: answer.status, detail: [detail, messageOf(errors.slice(1))].join(" ").trim() });
}

export const messageOf = (errors) => errors.map(({ field, detail }) => `${field}: ${detail.replace(/\.?$/, ".")}`).join(" ");

export const lock = () => session.set({ isLocked: true, rights: null, error: session.get().key ? REFUSED : "" });

// Calls `task` again and again while somebody sees the page, unless the service refuses its key.
export function regularly(task, milliseconds) {
  setInterval(() => document.hidden || session.get().isLocked || task(), milliseconds);
}

// The key stays in this tab: it is never stored for longer, and never part of an address. The page begins anew with it,
// because another key may see other jobs.
export async function logIn(key) {
  // Headers take no other letters.
  if (/[^\x20-\x7e]/.test(key)) return session.set({ error: REFUSED });
  session.set({ key, error: "" });
  try {
    await sendJson("/api/key");
    if (!keep("sessionStorage", KEY, key)) throw new Error("This browser keeps no data of this page, and so no key.");
    location.reload();
  } catch ({ status, message }) {
    session.set({ error: status === 401 ? REFUSED : message });
  }
}

// Prompts are not for the next key either.
export function logOut() {
  keep("sessionStorage", KEY, null);
  for (const name of ["form", "prompts"]) keep("localStorage", name, null);
  location.reload();
}

// The address of an image on this server, whatever name the service has for itself.
export function imageUrl(image, { isThumbnail = false } = {}) {
  const { pathname, search } = new URL(image.url, location.href);
  const url = BASE + pathname.slice(pathname.indexOf("/api/jobs/")) + search;
  return isThumbnail ? `${url}${search ? "&" : "?"}width=320` : url;
}
