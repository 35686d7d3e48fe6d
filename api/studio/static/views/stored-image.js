// An image of a job. One that does not come, as without a network, is asked for again until it is there or known to be gone.
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { imageUrl } from "../state/api.js";
import { connection } from "../state/events.js";
import { read } from "../state/jobs.js";

const MAX_WAIT_MS = 15_000;
// A bucket does not tell pages of other origins why.
const MAX_ATTEMPTS = 5;
// While somebody scrolls, thumbnails are asked for that stay in sight for so long. Thousands that fly by are not.
const STAY_MS = 100;
let scrolledAt = -STAY_MS;
addEventListener("scroll", () => (scrolledAt = performance.now()), { passive: true });

export function StoredImage({ image, isThumbnail = false, onGone, ...attributes }) {
  const [{ attempt, hasFailed }, set] = useState({ attempt: 0, hasFailed: false });
  const [isWanted, setWanted] = useState(!isThumbnail || performance.now() - scrolledAt >= STAY_MS);
  const url = imageUrl(image, { isThumbnail });
  useEffect(() => {
    const timer = isWanted ? 0 : setTimeout(() => setWanted(true), STAY_MS);
    return () => clearTimeout(timer);
  }, []);
  useEffect(() => {
    if (!hasFailed) return undefined;
    let timer = null;
    const again = () => set({ attempt: attempt + 1, hasFailed: false });
    const options = { headers: { Range: "bytes=0-0" }, cache: "no-store" };
    fetch(url, options).then(({ status }) => status, () => 0).then((status) => {
      const isGone = status === 404 || (!status && attempt >= MAX_ATTEMPTS && connection.get().isOnline);
      // Links work for a limited time. The job has fresh ones.
      if (status === 401) read(/[0-9a-f-]{36}/.exec(url)[0]).catch(() => {});
      if (isGone) onGone?.();
      else timer = setTimeout(again, Math.min(MAX_WAIT_MS, 500 * 2 ** attempt));
    });
    return () => clearTimeout(timer);
  }, [hasFailed, url]);
  return isWanted && html`<img key=${attempt} src=${url} ...${attributes} onError=${() => set({ attempt, hasFailed: true })} />`;
}
