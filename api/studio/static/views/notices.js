// Messages at the edge of the page, and the one region that screen readers listen to.
import { html, useRef } from "../vendor/htm-preact.js";
import { dismiss, notices } from "../state/notices.js";
import { useStore } from "../state/store.js";
import { IconButton } from "./icons.js";

// `level` is 0 for the page, and otherwise that of the dialog around it.
export function Notices({ level = 0 }) {
  const { shown, spoken, dialogs } = useStore(notices);
  const origin = useRef(null);
  if (level !== dialogs) return null;
  // The button vanishes, and the focus returns to where it was.
  const leave = (id) => {
    dismiss(id);
    if (origin.current?.isConnected) origin.current.focus();
  };
  const onFocus = ({ relatedTarget: from }) => from?.closest(".notices") || (origin.current = from);
  return html`<div class="notices" onFocusCapture=${onFocus}>
      ${shown.map(
        ({ id, text, action, isError }) => html`<div key=${id} class=${`notice ${isError ? "error" : ""}`}>
          <span>${text}</span>
          ${action && html`<button type="button" class="plain" onClick=${() => (leave(id), action.run())}>${action.label}</button>`}
          <${IconButton} icon="close" label="Dismiss" onClick=${() => leave(id)} />
        </div>`,
      )}
    </div>
    <div role="status" aria-live="polite" class="visually-hidden">${spoken}</div>`;
}
