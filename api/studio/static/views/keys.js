// Keys that do something: {key: function}.

// With Ctrl, Alt or Meta a key belongs to the browser.
export function runKey(event, keys) {
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}
