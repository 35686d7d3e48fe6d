// Paints a mask: white is painted anew, black stays. With a mouse, a pen, a finger or the keyboard.
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { Dialog } from "./dialog.js";
import { Icon } from "./icons.js";

// A stroke on a photo of a phone takes 50 MB to undo.
const MAX_UNDO = 30, MAX_UNDO_PIXELS = 60_000_000;
const RGB = [91, 107, 255];
const COLOUR = `rgb(${RGB})`;

// The mask as a canvas of the size of the image: coloured where it is painted, transparent elsewhere.
class Painting {
  constructor(canvas, mask) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.past = [];
    this.last = { x: canvas.width / 2, y: canvas.height / 2 };
    if (mask) this.load(mask);
  }

  async load(mask) {
    const image = Object.assign(new Image(), { src: mask });
    await image.decode();
    this.context.drawImage(image, 0, 0);
    const pixels = this.pixels();
    for (let at = 0; at < pixels.data.length; at += 4) pixels.data.set([...RGB, pixels.data[at]], at);
    this.context.putImageData(pixels, 0, 0);
  }

  pixels() {
    return this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
  }

  remember() {
    const most = Math.min(MAX_UNDO, MAX_UNDO_PIXELS / (this.canvas.width * this.canvas.height));
    this.past = [this.pixels(), ...this.past].slice(0, Math.max(1, most));
  }

  undo() {
    const before = this.past.shift();
    if (before) this.context.putImageData(before, 0, 0);
  }

  stroke(from, to, { size, isErasing }) {
    const { context } = this;
    context.globalCompositeOperation = isErasing ? "destination-out" : "source-over";
    Object.assign(context, { strokeStyle: COLOUR, lineWidth: size, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x + 0.01, to.y);
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }

  invert() {
    this.remember();
    const pixels = this.pixels();
    for (let at = 0; at < pixels.data.length; at += 4) {
      pixels.data.set([...RGB, 255 - pixels.data[at + 3]], at);
    }
    this.context.putImageData(pixels, 0, 0);
  }

  clear() {
    this.remember();
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  // As a file: black and white. null if nothing is painted.
  url() {
    if (!this.pixels().data.some((value, at) => at % 4 === 3 && value > 127)) return null;
    const copy = Object.assign(document.createElement("canvas"), { width: this.canvas.width, height: this.canvas.height });
    const context = copy.getContext("2d");
    const fill = (colour, operation) => {
      Object.assign(context, { fillStyle: colour, globalCompositeOperation: operation });
      context.fillRect(0, 0, copy.width, copy.height);
    };
    context.drawImage(this.canvas, 0, 0);
    fill("#fff", "source-in");
    fill("#000", "destination-over");
    return copy.toDataURL("image/png");
  }
}

export function MaskEditor({ image, mask, onClose, onDone }) {
  const canvas = useRef();
  const painting = useRef();
  const [brush, setBrush] = useState({ size: Math.max(4, Math.round(Math.min(image.width, image.height) / 8)), isErasing: false });
  const [place, setPlace] = useState({ x: image.width / 2, y: image.height / 2 });
  useEffect(() => {
    painting.current = new Painting(canvas.current, mask);
  }, []);
  const ring = { left: `${(100 * place.x) / image.width}%`, top: `${(100 * place.y) / image.height}%`, width: `${(100 * brush.size) / image.width}%` };
  const done = () => {
    onDone(painting.current.url());
    onClose();
  };
  return html`<${Dialog} title="Paint what to change" onClose=${onClose} onBeside=${() => {}} className="mask-editor">
    <${Tools} brush=${brush} setBrush=${setBrush} painting=${painting} longest=${Math.max(image.width, image.height)} />
    <div class="mask-stage">
      <div class="mask-layers" style=${{ aspectRatio: `${image.width} / ${image.height}`, width: `min(100%, ${(56 * image.width) / image.height}vh)` }}>
        <img src=${image.url} alt="The image below the mask" />
        <canvas ref=${canvas} width=${image.width} height=${image.height} tabindex="0" role="application"
          aria-label="Mask. Arrow keys move the brush, Space paints." ...${brushEvents(painting, brush, setPlace)} />
        <span class="mask-brush" style=${ring}></span>
      </div>
    </div>
    <footer>
      <span class="hint">The painted part is made anew; the rest stays as it is.</span>
      <button type="button" onClick=${onClose}>Cancel</button>
      <button type="button" class="primary" onClick=${done}>Use this mask</button>
    </footer>
  <//>`;
}

function Tools({ brush, setBrush, painting, longest }) {
  const tool = (isErasing, label) => html`<button type="button" aria-pressed=${brush.isErasing === isErasing} onClick=${() => setBrush({ ...brush, isErasing })}>${label}</button>`;
  return html`<div class="mask-tools" role="toolbar" aria-label="Tools">
    ${tool(false, "Brush")} ${tool(true, "Eraser")}
    <label>Size <input type="range" min="2" max=${Math.round(longest / 2)} value=${brush.size} onInput=${(event) => setBrush({ ...brush, size: Number(event.target.value) })} /></label>
    <button type="button" onClick=${() => painting.current.invert()}>Invert</button>
    <button type="button" onClick=${() => painting.current.undo()}><${Icon} name="reset" /> Undo</button>
    <button type="button" onClick=${() => painting.current.clear()}>Clear</button>
  </div>`;
}

function brushEvents(painting, brush, setPlace) {
  const at = (event) => {
    const box = event.target.getBoundingClientRect();
    const scale = event.target.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  };
  const go = (to, isPainting) => {
    if (isPainting) painting.current.stroke(painting.current.last, to, brush);
    painting.current.last = to;
    setPlace(to);
  };
  return {
    onPointerDown(event) {
      event.target.setPointerCapture(event.pointerId);
      painting.current.remember();
      go(at(event), false);
      go(at(event), true);
    },
    onPointerMove: (event) => go(at(event), event.target.hasPointerCapture(event.pointerId)),
    onKeyDown: (event) => onKey(event, painting.current, brush, go),
  };
}

function onKey(event, painting, brush, go) {
  const { canvas, last } = painting;
  const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key] ?? [];
  if (x === undefined) return;
  const isPainting = event.key === " " || event.shiftKey;
  if (isPainting) painting.remember();
  const within = (value, most) => Math.min(most, Math.max(0, value));
  go({ x: within(last.x + (x * brush.size) / 2, canvas.width), y: within(last.y + (y * brush.size) / 2, canvas.height) }, isPainting);
  event.preventDefault();
}
