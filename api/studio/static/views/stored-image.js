// An image of the service. One that cannot be loaded is tried again until the service says that it does not have it.
import { html, useEffect, useState } from "../vendor/htm-preact.js";

const RETRY_MS = 2_000;

// `failure` is null, "away" or "gone".
export function useStoredImage(url) {
  const [failure, setFailure] = useState(null);
  useEffect(() => {
    if (failure !== "away") return undefined;
    let timer = 0;
    const check = async () => {
      const answer = await fetch(url, { method: "HEAD", redirect: "manual" }).catch(() => null);
      if (!answer) timer = setTimeout(check, RETRY_MS);
      else setFailure(answer.ok ? null : "gone");
    };
    timer = setTimeout(check, RETRY_MS);
    return () => clearTimeout(timer);
  }, [failure]);
  return { failure, onError: () => setFailure("away") };
}

export function StoredImage(props) {
  const { failure, onError } = useStoredImage(props.src);
  return html`<img ...${props} key=${failure} onError=${failure ? undefined : onError} />`;
}
