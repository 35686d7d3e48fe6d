// Two images on top of each other, with a slider between them.
import { html, useState } from "../vendor/htm-preact.js";

export function Compare({ first, second, names }) {
  const [share, setShare] = useState(50);
  return html`<div class="compare">
    <div class="compare-layers">
      <img src=${second} alt=${names[1]} />
      <img src=${first} alt=${names[0]} style=${{ clipPath: `inset(0 ${100 - share}% 0 0)` }} />
      <span class="compare-line" style=${{ left: `${share}%` }}></span>
    </div>
    <input type="range" min="0" max="100" value=${share} aria-label="How much of the first image is shown" onInput=${(event) => setShare(Number(event.target.value))} />
  </div>`;
}
