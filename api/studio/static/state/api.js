// Requests to the service. Every failure is a Problem with a sentence for people.
import { createStore } from "./store.js";

// Where the files of this page are, and the path of the service with the prefix that a proxy may add.
export const FILES = new URL("..", import.meta.url).pathname;
export const BASE = FILES.slice(0, FILES.lastIndexOf("/studio/"));
const KEY = "imagegen-key";
const UNREACHABLE = "The service does not answer. This page tries again by itself.";

// `rights` is what GET /api/key says; null until it is known.
const savedKey = sessionStorage.getItem(KEY) ?? "";
const isLocked = !savedKey && document.documentElement.dataset.needsKey === "yes";
export const session = createStore({ key: savedKey, rights: null, isLocked, error: "" });

export class Problem extends Error {
  constructor({ code, detail, retryable = false, status = 0, errors = [] }) {
    super(detail);
    Object.assign(this, { code, retryable, status, errors });
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
    throw new Problem({ code: "unreachable", detail: UNREACHABLE, retryable: true });
  }
  if (answer.ok) return answer;
  const problem = await problemOf(answer);
  if (problem.status === 401) lock("The service does not accept this key.");
  throw problem;
}

export const sendJson = async (path, options) => (await send(path, options)).json();

async function problemOf(answer) {
  const said = await answer.json().catch(() => ({}));
  const detail = said.detail || `The service answered ${answer.status}.`;
  const fields = (said.errors ?? []).map((error) => error.detail).filter((text) => !detail.includes(text));
  return new Problem({ ...said, status: answer.status, detail: [detail, ...fields].join(" ") });
}

function lock(error) {
  const { key } = session.get();
  session.set({ isLocked: true, rights: null, error: key ? error : "" });
}

export async function loadRights() {
  const rights = await sendJson("/api/key");
  session.set({ rights, isLocked: false, error: "" });
  return rights;
}

// The key stays in this tab: it is never stored for longer, and never part of an address.
export async function logIn(key) {
  sessionStorage.setItem(KEY, key);
  session.set({ key });
  await loadRights();
}

export function logOut() {
  sessionStorage.removeItem(KEY);
  session.set({ key: "", rights: null, isLocked: true, error: "" });
}

// The address of an image on this server, whatever name the service has for itself.
export function imageUrl(image, { isThumbnail = false } = {}) {
  const { pathname, search } = new URL(image.url, location.href);
  const url = BASE + pathname.slice(pathname.indexOf("/api/jobs/")) + search;
  return isThumbnail ? `${url}${search ? "&" : "?"}width=320` : url;
}

// Whether the service still has an image; null if it does not say so now.
export async function isStored(url) {
  const answer = await fetch(url, { headers: { Range: "bytes=0-0" }, cache: "no-store" }).catch(() => null);
  if (answer?.ok) return true;
  return answer?.status === 404 ? false : null;
}
