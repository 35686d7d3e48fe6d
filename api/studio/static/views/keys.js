// Does what `keys` has for the key that was pressed. With Ctrl, Alt or Meta it belongs to the browser.
export function runKey(event, keys) {
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}
