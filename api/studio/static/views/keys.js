// Does what `keys` has for the key that was pressed. With Ctrl, Alt or Meta it belongs to the browser.
export function runKey(event, keys) {
  // Caps Lock changes nothing.
  const run = keys[event.key] ?? keys[event.key.toLowerCase()];
  if (event.ctrlKey || event.metaKey || event.altKey || !run) return;
  event.preventDefault();
  run();
}
