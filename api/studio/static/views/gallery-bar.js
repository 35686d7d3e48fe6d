// Search and filters of the gallery, and what to do with selected images.
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { downloadImages } from "../state/actions.js";
import { session } from "../state/api.js";
import { plural } from "../state/format.js";
import { jobs, setFilter, setPinned } from "../state/jobs.js";
import { models } from "../state/models.js";
import { removeWithUndo } from "../state/removal.js";
import { useStore } from "../state/store.js";
import { Icon, IconButton } from "./icons.js";

const TYPING_MS = 250;
const STATES = [["", "All but cancelled"], ["succeeded", "Done"], ["queued", "Waiting"], ["running", "Running"], ["failed", "Failed"], ["cancelled", "Cancelled"]];

// `fresh` newer jobs wait to be shown.
export function GalleryBar({ selected, setSelected, fresh }) {
  return html`<div class="gallery-bar">
    ${selected.size ? html`<${Selection} selected=${selected} setSelected=${setSelected} />` : html`<${Filters} />`}
    ${fresh > 0 && !selected.size && html`<button type="button" class="primary fresh" onClick=${() => document.getElementById("gallery").scrollIntoView()}>Show ${fresh} new</button>`}
  </div>`;
}

function Filters() {
  const filter = useStore(jobs, (state) => state.filter);
  const list = useStore(models, (state) => state.list) ?? [];
  return html`<div class="filters" role="search" aria-label="Gallery">
    <${Search} />
    <select aria-label="State" value=${filter.state} onChange=${(event) => setFilter({ state: event.target.value })}>
      ${STATES.map(([value, label]) => html`<option key=${value} value=${value}>${label}</option>`)}
    </select>
    <select aria-label="Model of the images" value=${filter.model} onChange=${(event) => setFilter({ model: event.target.value })}>
      <option value="">All models</option>
      ${list.map(({ name }) => html`<option key=${name} value=${name}>${name}</option>`)}
    </select>
    <${IconButton} icon="star" label="Only starred" isPressed=${filter.pinned} isFilled=${filter.pinned} onClick=${() => setFilter({ pinned: !filter.pinned })} />
  </div>`;
}

function Search() {
  const [text, setText] = useState(jobs.get().filter.q);
  const timer = useRef();
  useEffect(() => () => clearTimeout(timer.current), []);
  const onInput = (event) => {
    setText(event.target.value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setFilter({ q: event.target.value }), TYPING_MS);
  };
  return html`<label class="search"><${Icon} name="search" />
    <input id="search" type="search" maxlength="200" placeholder="Search prompts and labels" aria-label="Search prompts and labels" value=${text} onInput=${onInput} />
  </label>`;
}

function Selection({ selected, setSelected }) {
  const mayWrite = useStore(session, ({ rights }) => rights?.may_write !== false);
  const ids = [...selected];
  const end = () => setSelected(new Set());
  const andEnd = (work) => () => {
    work();
    end();
  };
  return html`<div class="selection" role="toolbar" aria-label="Selected images">
    <strong>${plural(ids.length, "job")} selected</strong>
    ${mayWrite && html`<button type="button" onClick=${andEnd(() => ids.forEach((id) => setPinned(id, true)))}><${Icon} name="star" /> Star</button>`}
    <button type="button" onClick=${() => downloadImages(ids)}><${Icon} name="download" /> Download</button>
    ${mayWrite && html`<button type="button" onClick=${andEnd(() => removeWithUndo(ids))}><${Icon} name="trash" /> Delete</button>`}
    <button type="button" class="plain" onClick=${end}>Clear selection</button>
  </div>`;
}
