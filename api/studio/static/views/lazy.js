// Views that the page does not begin with. They are fetched once it is idle, so that they are there when they are needed.
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { notify } from "../state/notices.js";

const IDLE_MS = 2_000;
const waiting = [];

export function lazy(load) {
  let view = null;
  const start = async () => (view ??= await load());
  waiting.push(start);
  return function Lazy(props) {
    const [, update] = useState(0);
    useEffect(() => {
      if (!view) start().then(() => update(1), () => notify("This part of the page could not be loaded. Reload the page.", { isError: true }));
    }, []);
    return view && html`<${view} ...${props} />`;
  };
}

export function loadLazyViews() {
  const whenIdle = window.requestIdleCallback ?? ((work) => setTimeout(work, IDLE_MS));
  whenIdle(() => waiting.forEach((start) => start().catch(() => {})), { timeout: IDLE_MS });
}
