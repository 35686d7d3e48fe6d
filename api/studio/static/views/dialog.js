// A modal dialog. Escape closes it, and so does a click beside it unless `onBeside` says otherwise.
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { notices } from "../state/notices.js";
import { IconButton } from "./icons.js";
import { Notices } from "./notices.js";

// Opens the dialog as long as it is in the page, and returns its level. The focus returns to where it was.
export function useModal(ref) {
  const [level] = useState(notices.get().dialogs + 1);
  useEffect(() => {
    const opener = document.activeElement;
    const dialog = ref.current;
    dialog.showModal();
    notices.set({ dialogs: level });
    return () => {
      notices.set({ dialogs: level - 1 });
      // What is below an open dialog takes no focus.
      dialog.remove();
      if (opener?.isConnected) opener.focus();
    };
  }, []);
  return level;
}

export function Dialog({ title, onClose, onBeside = onClose, className = "", children }) {
  const ref = useRef();
  const level = useModal(ref);
  // Who selects text and lets go of it beside the dialog does not mean to close it.
  const pressed = useRef();
  const onClick = ({ target }) => target === ref.current && target === pressed.current && onBeside();
  return html`<dialog ref=${ref} class=${className} aria-label=${title} onClose=${onClose} onPointerDown=${({ target }) => (pressed.current = target)} onClick=${onClick}>
    <div class="dialog-body">
      <header>
        <h2>${title}</h2>
        <${IconButton} icon="close" label="Close" onClick=${onClose} />
      </header>
      ${children}
      <${Notices} level=${level} />
    </div>
  </dialog>`;
}
