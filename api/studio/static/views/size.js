// The size of the image: shapes, the native size of the model, and exact pixels.
import { html } from "../vendor/htm-preact.js";
import { form } from "../state/form.js";
import { control, Field, setNumber } from "./controls.js";
import { IconButton } from "./icons.js";

const SHAPES = [[1, 1], [4, 3], [3, 2], [16, 9], [3, 4], [2, 3], [9, 16]];

// The size with this shape and about as many pixels as the native size, in steps that the model takes.
function sizeFor([across, down], { width, height }) {
  const pixels = width.default * height.default;
  const fit = (range, side) => {
    const stepped = Math.round(side / range.step) * range.step;
    return Math.min(range.max, Math.max(range.min, stepped));
  };
  return { width: fit(width, Math.sqrt((pixels * across) / down)), height: fit(height, Math.sqrt((pixels * down) / across)) };
}

export function Size({ state, controls }) {
  const [width, height] = [state.width ?? controls.width.default, state.height ?? controls.height.default];
  const isChanged = state.width !== null || state.height !== null;
  const native = controls.width.default / controls.height.default;
  const set = (size) => form.set({ width: size.width, height: size.height });
  return html`<fieldset class="field size">
    <legend>Size${!isChanged && html` <span class="hint">native</span>`}</legend>
    <div class="shapes">
      ${SHAPES.map((shape) => {
        const size = sizeFor(shape, controls);
        const isNative = Math.abs(shape[0] / shape[1] - native) < 0.01;
        return html`<${Shape} key=${shape} shape=${shape} size=${size} isNative=${isNative} isChosen=${size.width === width && size.height === height} onChoose=${() => set(size)} />`;
      })}
    </div>
    <div class="pixels">
      <${Side} name="width" label="Width" range=${controls.width} value=${width} />
      <${IconButton} icon="swap" label="Swap width and height" onClick=${() => set({ width: height, height: width })} />
      <${Side} name="height" label="Height" range=${controls.height} value=${height} />
      <${IconButton} icon="reset" label="Reset size to the default" disabled=${!isChanged} onClick=${() => set({ width: null, height: null })} />
    </div>
  </fieldset>`;
}

function Shape({ shape, size, isNative, isChosen, onChoose }) {
  const [across, down] = shape;
  const longest = Math.max(across, down);
  const name = `${across}:${down}`;
  const box = { width: `${(across / longest) * 18}px`, height: `${(down / longest) * 18}px` };
  const label = `${name}, ${size.width} by ${size.height}${isNative ? ", native" : ""}`;
  return html`<button type="button" class=${`shape ${isNative ? "native" : ""}`} aria-pressed=${isChosen} aria-label=${label} title=${label} onClick=${onChoose}>
    <span class="shape-box"><span style=${box}></span></span>${name}
  </button>`;
}

function Side({ name, label, range, value }) {
  return html`<${Field} field=${name} label=${label}>
    <input ...${control(name)} type="number" min=${range.min} max=${range.max} step=${range.step} value=${value} onChange=${setNumber(name)} />
  <//>`;
}
