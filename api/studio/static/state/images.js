// Images as inputs: read from files, the clipboard or the gallery, and checked before they are sent.

const TYPES = ["image/png", "image/jpeg", "image/webp"];
const MAX_BYTES = 20 * 1024 * 1024;

// {name, url (data:), width, height}. Raises an Error with a sentence.
export async function readImage(blob, name = "image") {
  if (!TYPES.includes(blob.type)) throw new Error(`${name} is not a PNG, JPEG or WebP image.`);
  if (blob.size > MAX_BYTES) throw new Error(`${name} is larger than 20 MB.`);
  const bitmap = await createImageBitmap(blob).catch(() => {
    throw new Error(`${name} is damaged, or of a kind that this browser cannot read.`);
  });
  const { width, height } = bitmap;
  bitmap.close();
  return { name, url: await dataUrl(blob), width, height };
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = Object.assign(new FileReader(), { onload: () => resolve(reader.result), onerror: () => reject(reader.error) });
    reader.readAsDataURL(blob);
  });
}

export function imageFiles(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}
