// Input images: from files, the clipboard, the gallery; and the mask of the first one.
import { html, useState } from "../vendor/htm-preact.js";
import { addFiles } from "../state/actions.js";
import { form } from "../state/form.js";
import { Range } from "./controls.js";
import { Icon, IconButton } from "./icons.js";
import { MaskEditor } from "./mask.js";

export function Inputs({ state, controls }) {
  const [isPainting, setPainting] = useState(false);
  const { images, mask } = state;
  const onFiles = (event) => {
    addFiles([...event.target.files]);
    event.target.value = "";
  };
  return html`<fieldset class="field inputs">
    <legend>${controls.images === 1 ? "Input image" : "Input images"}</legend>
    <ul class="input-list">
      ${images.slice(0, controls.images).map((image, index) => html`<${InputImage} key=${image.url.slice(-40)} image=${image} index=${index} mask=${index === 0 && controls.mask ? mask : null} />`)}
      ${images.length < controls.images && html`<li><label class="add-input">
        <${Icon} name="plus" /><span>Choose, drop or paste</span>
        <input type="file" accept="image/png,image/jpeg,image/webp" multiple=${controls.images > 1} onChange=${onFiles} aria-label="Choose images" />
      </label></li>`}
    </ul>
    ${images.length > 0 && html`<div>
      ${controls.mask && html`<div class="row">
        <button type="button" onClick=${() => setPainting(true)}><${Icon} name="brush" /> ${mask ? "Change the mask" : "Paint a mask"}</button>
        ${mask && html`<button type="button" class="plain" onClick=${() => form.set({ mask: null })}>Remove the mask</button>`}
      </div>`}
      ${controls.strength && html`<${Range} name="strength" label="Strength" hint="How much of the image may change" range=${controls.strength} value=${state.strength} />`}
    </div>`}
    ${isPainting && html`<${MaskEditor} image=${images[0]} mask=${mask} onClose=${() => setPainting(false)} onDone=${(painted) => form.set({ mask: painted })} />`}
  </fieldset>`;
}

function InputImage({ image, index, mask }) {
  const remove = () => {
    const images = form.get().images.filter((other) => other !== image);
    form.set({ images, mask: index === 0 ? null : form.get().mask });
  };
  return html`<li class="input-image">
    <img src=${image.url} alt=${`Input ${index + 1}: ${image.name}, ${image.width} by ${image.height} pixels`} />
    ${mask && html`<img class="input-mask" src=${mask} alt="Its mask" />`}
    <${IconButton} icon="close" label=${`Remove input ${index + 1}`} onClick=${remove} />
  </li>`;
}
