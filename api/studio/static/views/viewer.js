// One image on the whole screen, with its data beside it.
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { downloadImage, vary } from "../state/actions.js";
import { session } from "../state/api.js";
import { isUnfinished, jobs, loadMore, setPinned } from "../state/jobs.js";
import { removeWithUndo } from "../state/removal.js";
import { useStore } from "../state/store.js";
import { Details } from "./details.js";
import { useModal } from "./dialog.js";
import { IconButton } from "./icons.js";
import { runKey } from "./keys.js";
import { Notices } from "./notices.js";
import { describeJob, Unfinished } from "./progress.js";
import { StoredImage } from "./stored-image.js";

// The places that the arrows go through: every image of every listed job.
function neighbours(id, index) {
  const { ids, hidden, byId } = jobs.get();
  const places = ids.filter((other) => !hidden.has(other)).flatMap((other) => {
    const images = byId.get(other)?.images ?? [];
    return images.length ? images.map((image) => ({ id: other, index: image.index })) : [{ id: other, index: 0 }];
  });
  // A job that is not in the list, such as a cancelled one, has neighbours there, too.
  const at = places.findIndex((place) => place.id < id || (place.id === id && place.index === index));
  if (at > places.length - 5) loadMore();
  const after = places.slice(places[at]?.id === id ? at + 1 : at);
  const other = after.find((place) => byId.get(place.id)?.images.length);
  const nextJob = after.find((place) => place.id !== id);
  return at < 0 ? {} : { previous: places[at - 1], next: after[0], nextJob, other };
}

export function Viewer({ id, index, onMove, onClose }) {
  const dialog = useRef();
  const job = useStore(jobs, ({ byId }) => byId.get(id));
  const mayWrite = useStore(session, ({ rights }) => rights?.may_write !== false);
  const [zoom, setZoom] = useState(1);
  const [isComparing, setComparing] = useState(false);
  // Restored jobs are neighbours again, and so are those that come.
  useStore(jobs, ({ hidden }) => hidden);
  useStore(jobs, ({ ids }) => ids);
  const level = useModal(dialog);
  useEffect(() => dialog.current.focus(), []);
  // Buttons that vanish take the focus with them, and the keys would do nothing any more.
  useEffect(() => document.activeElement === document.body && dialog.current.focus());
  useEffect(() => setZoom(1), [id, index]);
  const view = { job, index, zoom, setZoom, isComparing, setComparing, mayWrite, onMove, onClose, ...neighbours(id, index) };
  return html`<dialog ref=${dialog} class="viewer" tabindex="-1" aria-label="Image" onClose=${onClose} onKeyDown=${(event) => onKey(event, view)}>
    <div class="viewer-stage">${job && html`<${Shown} ...${view} />`}</div>
    <${Details} key=${id} id=${id} state=${job?.state} index=${index} mayWrite=${mayWrite} onClose=${onClose} />
    <${Notices} level=${level} />
  </dialog>`;
}

function Shown(view) {
  const { job, index, zoom, setZoom, isComparing, next, onMove, previous, other } = view;
  const image = job.images.find((other) => other.index === index) ?? job.images[0];
  const compared = isComparing && other ? jobs.get().byId.get(other.id) : null;
  const second = compared?.images.find(({ index: at }) => at === other.index);
  return html`<${Toolbar} ...${view} image=${image} />
      ${!image && html`<div class="viewer-empty">${describeJob(job)}${isUnfinished(job.state) && html`<${Unfinished} job=${job} />`}</div>`}
      ${image && second && html`<${Compare} first=${image} second=${second} names=${[job.title, compared.title]} />`}
      ${image && !second && html`<${Zoom} key=${image.url} image=${image} alt=${job.title} zoom=${zoom} setZoom=${setZoom} onSwipe=${(isLeft) => (isLeft ? next && onMove(next) : previous && onMove(previous))} />`}
      <span class="viewer-arrow left"><${IconButton} icon="left" label="Previous image" disabled=${!previous} onClick=${() => onMove(previous)} /></span>
      <span class="viewer-arrow right"><${IconButton} icon="right" label="Next image" disabled=${!next} onClick=${() => onMove(next)} /></span>`;
}

function Toolbar({ job, image, zoom, setZoom, isComparing, setComparing, nextJob, other, mayWrite, onClose, onMove }) {
  return html`<div class="viewer-tools" role="toolbar" aria-label="Image">
    <${IconButton} icon="minus" label="Zoom out" disabled=${zoom <= 1} onClick=${() => setZoom(Math.max(1, zoom / 1.5))} />
    <${IconButton} icon="plus" label="Zoom in" disabled=${!image || zoom >= 8} onClick=${() => setZoom(Math.min(8, zoom * 1.5))} />
    <${IconButton} icon="compare" label="Compare with the next image" isPressed=${isComparing} disabled=${!image || !other} onClick=${() => setComparing(!isComparing)} />
    ${mayWrite && html`<${IconButton} icon="star" label=${job.pinned ? "Remove the star" : "Star"} isPressed=${job.pinned} isFilled=${job.pinned} onClick=${() => setPinned(job.id, !job.pinned)} />`}
    ${image && html`<${IconButton} icon="download" label="Download" onClick=${() => downloadImage(job, image)} />`}
    ${mayWrite && !isUnfinished(job.state) && html`<${IconButton} icon="trash" label=${job.images.length > 1 ? `Delete all ${job.images.length} images` : "Delete"} onClick=${() => remove(job, nextJob, onMove, onClose)} />`}
    <${IconButton} icon="close" label="Close" onClick=${onClose} />
  </div>`;
}

function remove(job, nextJob, onMove, onClose) {
  removeWithUndo([job.id]);
  if (jobs.get().hidden.has(job.id)) nextJob ? onMove(nextJob) : onClose();
}

function onKey(event, { job, zoom, setZoom, setComparing, isComparing, previous, next, nextJob, mayWrite, onMove, onClose }) {
  if (!job || event.target.matches("input")) return;
  runKey(event, {
    ArrowLeft: () => previous && onMove(previous), ArrowRight: () => next && onMove(next),
    "+": () => setZoom(Math.min(8, zoom * 1.5)), "-": () => setZoom(Math.max(1, zoom / 1.5)), 0: () => setZoom(1),
    c: () => setComparing(!isComparing), s: () => mayWrite && setPinned(job.id, !job.pinned),
    v: () => mayWrite && (onClose(), vary(job)), Delete: () => mayWrite && remove(job, nextJob, onMove, onClose),
  });
}

// An image that can be enlarged with the wheel or the keyboard, and moved with the pointer.
function Zoom({ image, alt, zoom, setZoom, onSwipe }) {
  const [shift, setShift] = useState({ x: 0, y: 0 });
  const start = useRef(null);
  useEffect(() => void (zoom === 1 && setShift({ x: 0, y: 0 })), [zoom]);
  // The point below the pointer stays there.
  const zoomAt = (event, to) => {
    event.preventDefault();
    const box = event.currentTarget.firstElementChild.getBoundingClientRect();
    const moved = (at, middle) => (at - middle) * (1 - to / zoom);
    setShift({ x: shift.x + moved(event.clientX, box.left + box.width / 2), y: shift.y + moved(event.clientY, box.top + box.height / 2) });
    setZoom(to);
  };
  const onWheel = (event) => zoomAt(event, Math.max(1, Math.min(8, zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15))));
  // Where the browser has enlarged the page, a finger moves that.
  const touch = useRef(null);
  const onTouchStart = ({ touches }) => void (touch.current = touches.length === 1 && zoom === 1 && visualViewport.scale < 1.01 ? touches[0] : null);
  const onTouchEnd = ({ changedTouches: [end] }) => {
    const [x, y] = touch.current ? [end.clientX - touch.current.clientX, end.clientY - touch.current.clientY] : [0, 0];
    if (Math.abs(x) > Math.max(50, 2 * Math.abs(y))) onSwipe(x < 0);
  };
  const onPointerDown = (event) => {
    if (zoom === 1) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    start.current = { x: event.clientX - shift.x, y: event.clientY - shift.y };
  };
  const onPointerMove = (event) => start.current && setShift({ x: event.clientX - start.current.x, y: event.clientY - start.current.y });
  const onPointerUp = () => void (start.current = null);
  const transform = `translate(${shift.x}px, ${shift.y}px) scale(${zoom})`;
  return html`<div class=${`zoom ${zoom > 1 ? "zoomed" : ""}`} onWheel=${onWheel} onPointerDown=${onPointerDown} onPointerMove=${onPointerMove} onPointerUp=${onPointerUp} onDblClick=${(event) => zoomAt(event, zoom === 1 ? 2 : 1)} onTouchStart=${onTouchStart} onTouchEnd=${onTouchEnd}>
    <${StoredImage} image=${image} alt=${alt} style=${{ transform }} draggable=${false} />
  </div>`;
}

// Two images on top of each other, with a slider between them.
function Compare({ first, second, names }) {
  const [share, setShare] = useState(50);
  return html`<div class="compare">
    <div class="compare-layers">
      <${StoredImage} key=${second.url} image=${second} alt=${names[1]} />
      <${StoredImage} key=${first.url} image=${first} alt=${names[0]} style=${{ clipPath: `inset(0 ${100 - share}% 0 0)` }} />
      <span class="compare-line" style=${{ left: `${share}%` }}></span>
    </div>
    <input type="range" min="0" max="100" value=${share} aria-label="How much of the first image is shown" onInput=${(event) => setShare(Number(event.target.value))} />
  </div>`;
}
