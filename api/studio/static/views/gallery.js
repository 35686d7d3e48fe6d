// All jobs, newest first. Only the rows in sight are in the page, so twenty thousand scroll like twenty.
import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/htm-preact.js";
import { jobs, loadMore } from "../state/jobs.js";
import { useStore } from "../state/store.js";
import { GalleryBar } from "./gallery-bar.js";
import { moveFocus, Tile } from "./tile.js";

const SMALLEST_TILE = 150;
const GAP = 10;
const ROWS_BEYOND = 2;
// Where the first row begins to be cut off by the bars above it.
const BARS = 100;

export function Gallery({ onOpen }) {
  const all = useStore(jobs, ({ ids }) => ids);
  const hidden = useStore(jobs, (state) => state.hidden);
  const isLoading = useStore(jobs, (state) => state.isLoading);
  const isComplete = useStore(jobs, (state) => state.isComplete);
  const error = useStore(jobs, (state) => state.error);
  const filter = useStore(jobs, (state) => state.filter);
  const [selected, setSelected] = useState(new Set());
  const [isAway, setAway] = useState(false);
  const [newest, setNewest] = useState(null);
  // Newer jobs wait while somebody looks at older ones or selects some: what is below the pointer stays there.
  const isHeld = isAway || selected.size > 0;
  useLayoutEffect(() => setNewest(isHeld ? all[0] : null), [isHeld, filter]);
  const listed = hidden.size ? all.filter((id) => !hidden.has(id)) : all;
  const ids = newest ? listed.filter((id) => id <= newest) : listed;
  const isFiltered = filter.q || filter.model || filter.state || filter.pinned;
  return html`<section id="gallery" class="gallery" aria-label="Gallery">
    <${GalleryBar} selected=${selected} setSelected=${setSelected} fresh=${listed.length - ids.length} />
    <${Grid} ids=${ids} selected=${selected} setSelected=${setSelected} setAway=${setAway} onOpen=${onOpen} />
    ${error && html`<p class="problem" role="alert">${error} <button type="button" class="plain" onClick=${loadMore}>Try again</button></p>`}
    ${isLoading && html`<p class="hint">Loading…</p>`}
    ${isComplete && !ids.length && html`<p class="gallery-empty">${isFiltered ? "No job matches." : "Nothing here yet. Images of every program that uses this service appear here."}</p>`}
  </section>`;
}

function Grid({ ids, selected, setSelected, setAway, onOpen }) {
  const ref = useRef();
  const view = useVisibleRows(ref, ids.length);
  const [focused, setFocused] = useState(null);
  useLayoutEffect(() => setAway(view.isAway), [view.isAway]);
  useEffect(() => {
    if (view.last * view.columns >= ids.length - 2 * view.columns) loadMore();
  }, [view.last, view.columns, ids.length]);
  const first = view.first * view.columns;
  const shown = ids.slice(first, (view.last + 1) * view.columns);
  const isKnown = shown.includes(focused);
  const onKeyDown = (event) => moveFocus(event, ids, view, setFocused);
  const last = useRef();
  const toggle = (id, isRange) => {
    const next = new Set(selected);
    const [from, to] = [ids.indexOf(last.current), ids.indexOf(id)].sort((one, other) => one - other);
    if (isRange && from >= 0) ids.slice(from, to + 1).forEach((one) => next.add(one));
    else next.has(id) ? next.delete(id) : next.add(id);
    last.current = id;
    setSelected(next);
  };
  return html`<div class="grid-space" ref=${ref} style=${{ height: `${view.rows * view.pitch}px` }}>
    <ul class="grid" aria-label="Jobs" onKeyDown=${onKeyDown}
      style=${{ transform: `translateY(${view.first * view.pitch}px)`, gridTemplateColumns: `repeat(${view.columns}, 1fr)`, gap: `${GAP}px` }}>
      ${shown.map((id, index) => html`<${Tile} key=${id} id=${id} position=${first + index + 1} total=${ids.length}
        isTabStop=${isKnown ? id === focused : index === 0} isSelected=${selected.has(id)} isSelecting=${selected.size > 0}
        onToggle=${toggle} onOpen=${onOpen} />`)}
    </ul>
  </div>`;
}

// Which rows are in sight: {columns, pitch (height of a row), rows, first, last}.
function useVisibleRows(ref, count) {
  const [view, setView] = useState({ columns: 4, pitch: SMALLEST_TILE, rows: 0, first: 0, last: 3, isAway: false });
  const measure = () => {
    const box = ref.current?.getBoundingClientRect();
    if (!box) return;
    const columns = Math.max(2, Math.floor((box.width + GAP) / (SMALLEST_TILE + GAP)));
    const pitch = (box.width + GAP) / columns;
    const rows = Math.ceil(count / columns);
    const first = Math.max(0, Math.min(rows - 1, Math.floor(-box.top / pitch) - ROWS_BEYOND));
    const last = Math.max(first, Math.min(rows - 1, Math.ceil((innerHeight - box.top) / pitch) + ROWS_BEYOND));
    const next = { columns, pitch, rows, first, last, isAway: box.top < BARS };
    setView((known) => (Object.keys(next).every((name) => known[name] === next[name]) ? known : next));
  };
  useLayoutEffect(measure, [count]);
  useEffect(() => {
    const observer = new ResizeObserver(measure);
    observer.observe(ref.current);
    window.addEventListener("scroll", measure, { passive: true });
    return () => {
      observer.disconnect();
      window.removeEventListener("scroll", measure);
    };
  }, [count]);
  return view;
}
