// A modal dialog. Escape and a click beside it close it; the focus returns to where it was.
import { html, useEffect, useRef } from "../vendor/htm-preact.js";
import { IconButton } from "./icons.js";

export function Dialog({ title, onClose, className = "", children }) {
  const ref = useRef();
  useEffect(() => {
    const opener = document.activeElement;
    ref.current.showModal();
    return () => opener?.isConnected && opener.focus();
  }, []);
  const onClick = (event) => event.target === ref.current && onClose();
  return html`<dialog ref=${ref} class=${className} aria-label=${title} onClose=${onClose} onClick=${onClick}>
    <div class="dialog-body">
      <header>
        <h2>${title}</h2>
        <${IconButton} icon="close" label="Close" onClick=${onClose} />
      </header>
      ${children}
    </div>
  </dialog>`;
}
