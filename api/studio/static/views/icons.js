// Small drawings for buttons. They are decoration: each button has a name of its own.
import { html } from "../vendor/htm-preact.js";

const PATHS = {
  again: "M4 12a8 8 0 1 0 2.5-5.8M4 4v4h4", brush: "M14 4l6 6-8 8a4 4 0 0 1-6-6zM4 20c2 0 3-1 3-3",
  close: "M6 6l12 12M18 6L6 18", compare: "M12 3v18M4 6h5v12H4zM15 6h5v12h-5z",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  dice: "M4 4h16v16H4zM8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  help: "M9 9.5a3 3 0 1 1 4 2.8c-.7.3-1 .8-1 1.7M12 17.5h.01M12 21a9 9 0 1 1 0-18 9 9 0 0 1 0 18z",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 2-2 5 4M15.5 9h.01",
  leave: "M14 4H5v16h9M10 12h11M17 8l4 4-4 4", left: "M15 5l-7 7 7 7",
  minus: "M5 12h14", moon: "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z", plus: "M12 5v14M5 12h14",
  reset: "M4 9h10a5 5 0 0 1 0 10h-4M4 9l4-4M4 9l4 4", right: "M9 5l7 7-7 7",
  search: "M10.5 17a6.5 6.5 0 1 1 0-13 6.5 6.5 0 0 1 0 13zM15.5 15.5L20 20",
  star: "M12 4l2.5 5.2 5.7.8-4.1 4 1 5.7-5.1-2.7-5.1 2.7 1-5.7-4.1-4 5.7-.8z",
  swap: "M7 4L3 8l4 4M3 8h14M17 12l4 4-4 4M21 16H7", trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  vary: "M4 7h3l9 10h4M4 17h3l2.5-2.8M13.5 9.8L16 7h4M18 4.5L20.5 7 18 9.5M18 14.5l2.5 2.5-2.5 2.5",
};

export function Icon({ name, isFilled }) {
  return html`<svg class=${`icon ${isFilled ? "filled" : ""}`} viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}

// A button that shows only a drawing; its label is its name and its tooltip.
export function IconButton({ icon, label, isFilled, isPressed, ...rest }) {
  return html`<button type="button" class="icon-button" aria-label=${label} title=${label} aria-pressed=${isPressed} ...${rest}>
    <${Icon} name=${icon} isFilled=${isFilled} />
  </button>`;
}
