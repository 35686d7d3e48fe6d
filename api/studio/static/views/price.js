// What an image of a paid model costs, from the last ones that were bought.
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { sendJson } from "../state/api.js";

export function Price({ model, count }) {
  const [each, setEach] = useState(null);
  useEffect(() => {
    setEach(null);
    const query = new URLSearchParams({ model: model.name, state: "succeeded", limit: 5 });
    sendJson(`/api/jobs?${query}`).then(({ jobs }) => setEach(lastPrice(jobs)), () => {});
  }, [model.name]);
  const credits = model.backend?.credits ?? null;
  const left = credits === null ? "" : ` ${credits} credits are left.`;
  if (each === null) return html`<p class="hint">This model is paid. Its price is known after the first image.${left}</p>`;
  return html`<p class="hint">Costs about <strong>${round(each * count)} credits</strong>, as the last time.${left}</p>`;
}

function lastPrice(jobs) {
  const costs = jobs.flatMap((job) => job.providers.map((task) => task.cost)).filter((cost) => cost !== null);
  return costs.length ? costs[0] : null;
}

const round = (value) => Math.round(value * 100) / 100;
