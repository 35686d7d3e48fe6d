// Starts the page: what it shows, the keys that work everywhere, and the event stream.
import { html, render, useEffect, useState } from "./vendor/htm-preact.js";
import { addFiles, focusPrompt } from "./state/actions.js";
import { loadRights, session } from "./state/api.js";
import { connection, followEvents } from "./state/events.js";
import { imageFiles } from "./state/images.js";
import { cancel, followQueue, handleEvent, isUnfinished, jobs } from "./state/jobs.js";
import { followModels, loadModels } from "./state/models.js";
import { notifyProblem } from "./state/notices.js";
import { useStore } from "./state/store.js";
import { followTitle } from "./state/title.js";
import { Create } from "./views/create.js";
import { Gallery } from "./views/gallery.js";
import { applyTheme, Header } from "./views/header.js";
import { Help } from "./views/help.js";
import { Login } from "./views/login.js";
import { Announcer, Notices } from "./views/notices.js";
import { Reader } from "./views/reader.js";
import { Service } from "./views/service.js";
import { Stage } from "./views/stage.js";
import { Viewer } from "./views/viewer.js";

let isFollowing = false;
let reconnect = () => {};

function start() {
  if (isFollowing) {
    reconnect();
    return loadModels().catch(notifyProblem);
  }
  isFollowing = true;
  reconnect = followEvents(handleEvent);
  followModels().catch(notifyProblem);
  followTitle();
  followQueue();
  // What the key may do is asked again if the service was away.
  connection.subscribe(() => connection.get().isOnline && !session.get().rights && loadRights().catch(() => {}));
}

// Everything that the page shows first is asked for at once.
function startUnlocked() {
  if (session.get().isLocked) return;
  loadRights().catch(() => {});
  start();
}

function App() {
  const isLocked = useStore(session, (state) => state.isLocked);
  const hash = useHash();
  const [isHelping, setHelping] = useState(false);
  const [dropped, setDropped] = useState(null);
  usePageKeys(() => setHelping(true));
  useFiles(setDropped);
  if (isLocked) return html`<${Login} onLogin=${start} /><${Announcer} />`;
  const place = hash.startsWith("#/service") ? "#/service" : "#/";
  return html`<${Header} place=${place} onHelp=${() => setHelping(true)} />
    ${place === "#/" ? html`<${Studio} hash=${hash} />` : html`<${Service} />`}
    ${dropped && html`<${Reader} file=${dropped} onClose=${() => setDropped(null)} />`}
    ${isHelping && html`<${Help} onClose=${() => setHelping(false)} />`}
    <${Notices} /><${Announcer} />`;
}

function Studio({ hash }) {
  const [, id, index] = /^#\/job\/([0-9a-f-]{36})\/(\d+)$/.exec(hash) ?? [];
  const open = (job, at) => history.pushState(null, "", `#/job/${job}/${at}`) ?? dispatchEvent(new HashChangeEvent("hashchange"));
  const move = (to) => location.replace(`#/job/${to.id}/${to.index}`);
  const close = () => location.hash.startsWith("#/job/") && location.replace("#/");
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
  useEffect(() => {
    const update = () => setHash(location.hash);
    return listen(window, { hashchange: update, popstate: update });
  }, []);
  return hash;
}

function usePageKeys(showHelp) {
  useEffect(() => {
    const onKeyDown = (event) => {
      const isField = event.target.matches("input, textarea, select, dialog *");
      if (event.key === "Escape" && !event.target.closest("dialog")) return cancelCurrent();
      if (isField || event.ctrlKey || event.metaKey || event.altKey) return;
      const keys = { "?": showHelp, "/": () => document.getElementById("search")?.focus(), p: focusPrompt };
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    };
    return listen(document, { keydown: onKeyDown });
  }, []);
}

function cancelCurrent() {
  const { byId, current } = jobs.get();
  if (isUnfinished(byId.get(current)?.state)) cancel(current);
}

// A dropped file is read first; a pasted one becomes an input.
function useFiles(setDropped) {
  useEffect(() => {
    const onDrop = (event) => {
      event.preventDefault();
      const [file] = imageFiles(event.dataTransfer);
      if (file && event.target.closest?.(".inputs")) addFiles(imageFiles(event.dataTransfer));
      else if (file) setDropped(file);
    };
    const onPaste = (event) => {
      const files = imageFiles(event.clipboardData);
      if (files.length) addFiles(files);
    };
    return listen(document, { drop: onDrop, dragover: (event) => event.preventDefault(), paste: onPaste });
  }, []);
}

// Listens to events by name, and returns a function that ends it.
function listen(target, handlers) {
  for (const [name, handler] of Object.entries(handlers)) target.addEventListener(name, handler);
  return () => Object.entries(handlers).forEach(([name, handler]) => target.removeEventListener(name, handler));
}

applyTheme();
startUnlocked();
render(html`<${App} />`, document.getElementById("app"));
