// The top of the page: where one is, whether the service answers, and the key.
import { html } from "../vendor/htm-preact.js";
import { FILES, logOut, session } from "../state/api.js";
import { connection } from "../state/events.js";
import { jobs, openOfTab } from "../state/jobs.js";
import { keep, recall, useStore } from "../state/store.js";
import { Icon, IconButton } from "./icons.js";

export function Header({ place, onHelp }) {
  const { isOnline } = useStore(connection);
  const rights = useStore(session, (state) => state.rights);
  const open = useStore(jobs, (state) => openOfTab(state).length);
  const running = useStore(jobs, (state) => openOfTab(state).filter((id) => state.byId.get(id).state === "running").length);
  const link = (hash, label) => html`<a href=${hash} aria-current=${place === hash ? "page" : undefined}>${label}</a>`;
  return html`<header class="top">
    <a class="brand" href="#/"><img src=${`${FILES}icon.svg`} alt="" width="24" height="24" /> imagegen</a>
    <nav aria-label="Pages">${link("#/", "Studio")} ${place === "#/" && html`<a class="on-phones" href="#gallery">Gallery</a>`} ${link("#/service", "Service")}</nav>
    <span class="top-state">
      ${!isOnline && html`<span class="offline"><span class="dot broken"></span> The service does not answer; trying again…</span>`}
      ${isOnline && open > 0 && html`<span class="hint">Jobs: ${running} running${open > running ? `, ${open - running} waiting` : ""}</span>`}
    </span>
    ${rights?.required && html`<button type="button" class="plain who" onClick=${logOut} title="Log out"><${Icon} name="leave" /> <span>${rights.name}${rights.may_write ? "" : " (read-only)"}, log out</span></button>`}
    <${IconButton} icon="moon" label="Light or dark" onClick=${toggleTheme} />
    <${IconButton} icon="help" label="Keys" onClick=${onHelp} />
  </header>`;
}

const THEME = "theme";

export function applyTheme(theme = recall("localStorage", THEME, "")) {
  if (theme) document.documentElement.dataset.theme = theme;
}

function toggleTheme() {
  const shown = document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const theme = shown === "dark" ? "light" : "dark";
  keep("localStorage", THEME, theme);
  applyTheme(theme);
}
