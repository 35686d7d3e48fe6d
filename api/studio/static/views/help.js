// The list of keys.
import { html } from "../vendor/htm-preact.js";
import { BASE } from "../state/api.js";
import { Dialog } from "./dialog.js";

const KEYS = [
  ["Making", [
    ["Ctrl Enter", "Generate"], ["Esc", "Cancel the job that is shown, or close a dialog"],
    ["Alt ↑ / Alt ↓", "Earlier and later prompts, in the prompt"],
    ["Ctrl V", "Paste an image as input"], ["P", "Go to the prompt"],
  ]],
  ["Images", [
    ["/", "Search"], ["← ↑ → ↓", "Move between images"], ["Enter", "Open an image"],
    ["X", "Select an image; with Shift, all up to it"], ["S", "Star an image"], ["Delete", "Delete an image (with undo)"],
  ]],
  ["In the viewer", [
    ["← / →", "Previous and next image"], ["+ / − / 0", "Zoom in, out and to fit"],
    ["C", "Compare with the next image"], ["V", "Vary: the same with another seed"],
  ]],
];

export function Help({ onClose }) {
  return html`<${Dialog} title="Keys" onClose=${onClose} className="help">
    <div class="columns">
      ${KEYS.map(
        ([title, rows]) => html`<section key=${title}>
          <h3>${title}</h3>
          <dl>
            ${rows.map(([keys, does]) => html`<div key=${keys}><dt>${keys.split(" ").map((key) => (key === "/" && keys.length > 1 ? " / " : html`<kbd>${key}</kbd>`))}</dt><dd>${does}</dd></div>`)}
          </dl>
        </section>`,
      )}
    </div>
    <p class="hint">Programs use the same service: <a href=${`${BASE}/docs`}>documentation of the API</a>.</p>
  <//>`;
}
