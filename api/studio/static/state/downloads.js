// Saving images as files.
import { imageUrl, send } from "./api.js";
import { notify } from "./notices.js";

const MOST_AT_ONCE = 100;

export function downloadImage(job, image) {
  save(imageUrl(image), `${job.id}-${image.index}.${image.media_type.split("/")[1]}`);
}

export async function downloadImages(ids) {
  if (ids.length > MOST_AT_ONCE) notify(`The file has the first ${MOST_AT_ONCE} of ${ids.length} jobs.`);
  const query = ids.slice(0, MOST_AT_ONCE).map((id) => `job=${id}`).join("&");
  const file = await (await send(`/api/images.zip?${query}`)).blob();
  const url = URL.createObjectURL(file);
  save(url, "images.zip");
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function save(url, name) {
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: name });
  link.click();
}
