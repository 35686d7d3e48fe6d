// Starts the page: what it shows, the keys that work everywhere, and the event stream.
import { html, render, useEffect, useLayoutEffect, useState } from "./vendor/htm-preact.js";
import { addFiles, focusPrompt } from "./state/actions.js";
import { sendJson, session } from "./state/api.js";
import { connection, followEvents } from "./state/events.js";
import { imageFiles } from "./state/images.js";
import { cancel, followQueue, handleEvent, isUnfinished, jobs, openOfTab, shownJob } from "./state/jobs.js";
import { followModels } from "./state/models.js";
import { notify, notifyProblem } from "./state/notices.js";
import { useStore } from "./state/store.js";
import { followTitle } from "./state/title.js";
import { Create } from "./views/create.js";
import { Gallery } from "./views/gallery.js";
import { applyTheme, Header } from "./views/header.js";
import { Help } from "./views/help.js";
import { runKey } from "./views/keys.js";
import { Login } from "./views/login.js";
import { Notices } from "./views/notices.js";
import { Reader } from "./views/reader.js";
import { Service } from "./views/service.js";
import { Stage } from "./views/stage.js";
import { Viewer } from "./views/viewer.js";

// Everything that the page shows first is asked for at once.
function start() {
  const askForRights = () => session.get().rights || sendJson("/api/key").then((rights) => session.set({ rights }), () => {});
  askForRights();
  jobs.subscribe(followEvents(handleEvent, () => openOfTab(jobs.get()).length > 0));
  followModels().catch(notifyProblem);
  followTitle();
  followQueue();
  connection.subscribe(() => connection.get().isOnline && askForRights());
}

function App() {
  const isLocked = useStore(session, (state) => state.isLocked);
  const [hash, setHash] = useHash();
  const [isHelping, setHelping] = useState(false);
  const [dropped, setDropped] = useState(null);
  usePageKeys(() => setHelping(true));
  useFiles(setDropped);
  if (isLocked) return html`<${Login} /><${Notices} />`;
  const place = hash.startsWith("#/service") ? "#/service" : "#/";
  return html`<${Header} place=${place} onHelp=${() => setHelping(true)} />
    ${place === "#/" ? html`<${Studio} hash=${hash} setHash=${setHash} />` : html`<${Service} />`}
    ${dropped && html`<${Reader} file=${dropped} onClose=${() => setDropped(null)} />`}
    ${isHelping && html`<${Help} onClose=${() => setHelping(false)} />`}
    <${Notices} />`;
}

function Studio({ hash, setHash }) {
  // The viewer is a place of its own, so that going back closes it, and closing it goes back.
  const show = (to, change) => {
    history[change]({ isOpened: change === "pushState" || history.state?.isOpened }, "", to);
    setHash(to);
  };
  const open = (job, index) => show(`#/job/${job}/${index}`, "pushState");
  const move = (to) => show(`#/job/${to.id}/${to.index}`, "replaceState");
  const close = () => {
    if (!history.state?.isOpened) return show("#/", "replaceState");
    setHash("#/");
    history.back();
  };
  const [, id, index] = /^#\/job\/([0-9a-f-]{36})\/(\d+)$/.exec(hash) ?? [];
  return html`<main class="studio">
    <h1 class="visually-hidden">Studio</h1>
    <${Stage} onOpen=${open} />
    <${Create} />
    <${Gallery} onOpen=${open} />
    ${id && html`<${Viewer} id=${id} index=${Number(index)} onMove=${move} onClose=${close} />`}
  </main>`;
}

function useHash() {
  const [hash, setHash] = useState(location.hash);
  const update = () => setHash(location.hash);
  // Before the browser does anything else: an address that changes meanwhile would be missed.
  useLayoutEffect(() => listen(window, { hashchange: update, popstate: update }), []);
  return [hash, setHash];
}

function usePageKeys(showHelp) {
  useEffect(() => {
    const onKeyDown = (event) => {
      const isField = event.target.matches("input, textarea, select, dialog *");
      const hasOwnEscape = event.isComposing || event.target.closest("select, [type=search]") || document.querySelector("dialog[open]");
      if (event.key === "Escape" && !hasOwnEscape) return cancelCurrent();
      if (!isField) runKey(event, { "?": showHelp, "/": () => document.getElementById("search")?.focus(), p: focusPrompt });
    };
    return listen(document, { keydown: onKeyDown });
  }, []);
}

function cancelCurrent() {
  const job = shownJob(jobs.get());
  if (document.querySelector(".stage") && isUnfinished(job?.state)) cancel(job.id);
}

// A dropped file is read first; a pasted one becomes an input.
function useFiles(setDropped) {
  useEffect(() => {
    const hasFiles = (event) => event.dataTransfer.types.includes("Files");
    const onDragOver = (event) => hasFiles(event) && event.preventDefault();
    const onDrop = (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      const files = imageFiles(event.dataTransfer);
      if (!files.length) notify("Only images can be dropped here.", { isError: true });
      else if (event.target.closest?.(".inputs")) addFiles(files);
      else setDropped(files[0]);
    };
    const onPaste = (event) => {
      const files = imageFiles(event.clipboardData);
      // Programs for texts and tables also copy them as an image.
      if (!files.length || ["text/plain", "text/html"].every((type) => event.clipboardData.types.includes(type))) return;
      event.preventDefault();
      addFiles(files);
    };
    return listen(document, { drop: onDrop, dragover: onDragOver, paste: onPaste });
  }, []);
}

// Listens to events by name, and returns a function that ends it.
function listen(target, handlers) {
  for (const [name, handler] of Object.entries(handlers)) target.addEventListener(name, handler);
  return () => Object.entries(handlers).forEach(([name, handler]) => target.removeEventListener(name, handler));
}

applyTheme();
if (!session.get().isLocked) start();
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
