// An image that can be enlarged with the wheel or the keyboard, and moved with the pointer.
import { html, useRef, useState, useEffect } from "../vendor/htm-preact.js";

export function Zoom({ src, alt, zoom, setZoom }) {
  const [shift, setShift] = useState({ x: 0, y: 0 });
  const start = useRef(null);
  useEffect(() => setShift({ x: 0, y: 0 }), [src, zoom === 1]);
  const onWheel = (event) => {
    event.preventDefault();
    setZoom(Math.max(1, Math.min(8, zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15))));
  };
  const onPointerDown = (event) => {
    if (zoom === 1) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    start.current = { x: event.clientX - shift.x, y: event.clientY - shift.y };
  };
  const onPointerMove = (event) => start.current && setShift({ x: event.clientX - start.current.x, y: event.clientY - start.current.y });
  const onPointerUp = () => void (start.current = null);
  const transform = `translate(${shift.x}px, ${shift.y}px) scale(${zoom})`;
  return html`<div class=${`zoom ${zoom > 1 ? "zoomed" : ""}`} onWheel=${onWheel} onPointerDown=${onPointerDown} onPointerMove=${onPointerMove} onPointerUp=${onPointerUp} onDblClick=${() => setZoom(zoom === 1 ? 2 : 1)}>
    <img src=${src} alt=${alt} style=${{ transform }} draggable=${false} />
  </div>`;
}
