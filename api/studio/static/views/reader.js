// What an image says about how it was made: dropped or pasted, from this service or another program.
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { addFiles, focusPrompt } from "../state/actions.js";
import { fillForm } from "../state/form.js";
import { readRecipe } from "../state/recipe.js";
import { Dialog } from "./dialog.js";

const NAMES = { prompt: "Prompt", negative_prompt: "Negative prompt", model: "Model", seed: "Seed", width: "Width", height: "Height", num_inference_steps: "Steps", guidance_scale: "Guidance", scheduler: "Scheduler" };

export function Reader({ file, onClose }) {
  const [recipe, setRecipe] = useState(undefined);
  const [url, setUrl] = useState("");
  useEffect(() => {
    const address = URL.createObjectURL(file);
    setUrl(address);
    readRecipe(file).then(setRecipe, () => setRecipe(null));
    return () => URL.revokeObjectURL(address);
  }, [file]);
  const take = (parts) => () => {
    fillForm(recipe.request, parts);
    onClose();
    // What is below an open dialog takes no focus.
    setTimeout(focusPrompt);
  };
  const use = () => {
    addFiles([file]);
    onClose();
  };
  return html`<${Dialog} title="Image from a file" onClose=${onClose} className="reader">
    <div class="reader-body">
      ${url && html`<img src=${url} alt=${file.name} />`}
      ${recipe === undefined ? html`<p class="hint">Reading…</p>` : html`<${Recipe} recipe=${recipe} />`}
    </div>
    <footer>
      <button type="button" onClick=${use}>Use as input</button>
      ${recipe && html`<button type="button" onClick=${take("prompt")}>Only the prompt</button>`}
      ${recipe && html`<button type="button" class="primary" onClick=${take("all")}>Use its recipe</button>`}
    </footer>
  <//>`;
}

function Recipe({ recipe }) {
  if (!recipe) return html`<p>This file does not say how it was made.</p>`;
  const rows = Object.entries(NAMES).filter(([name]) => recipe.request[name] !== undefined && recipe.request[name] !== null);
  return html`<div>
    <p class="hint">Made with ${recipe.source}</p>
    <dl class="facts">${rows.map(([name, label]) => html`<div key=${name}><dt>${label}</dt><dd>${recipe.request[name]}</dd></div>`)}</dl>
  </div>`;
}
