// Short messages at the edge of the page, and what screen readers are told.
import { createStore } from "./store.js";

const SHOWN_MS = 6_000;
let number = 0;

// `dialogs` says how many are open: messages are shown in the last one, because all below it is out of reach.
export const notices = createStore({ shown: [], spoken: "", dialogs: 0 });

// Speak politely, without showing anything. The same again is spoken only where it differs.
export const announce = (text) => notices.set(({ spoken }) => ({ spoken: text === spoken ? `${text}\u00a0` : text }));

// Show a message; `action` is a button {label, run}. It vanishes by itself unless it is an error.
export function notify(text, { action, isError = false } = {}) {
  const id = (number += 1);
  const notice = { id, text, action, isError };
  notices.set(({ shown }) => ({ shown: [...shown.slice(-3), notice] }));
  announce(text);
  setTimeout(() => dismiss(id), isError ? 2 * SHOWN_MS : SHOWN_MS);
}

// A refused key is told by the login.
export function notifyProblem(error) {
  if (error.status !== 401) notify(error.message, { isError: true });
}

export function dismiss(id) {
  notices.set(({ shown }) => ({ shown: shown.filter((notice) => notice.id !== id) }));
}
