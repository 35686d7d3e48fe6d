// Reads from an image file how it was made: by this service, by AUTOMATIC1111 and its kin, or by ComfyUI.

const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const MAX_FILE = 64 * 1024 * 1024;
const MAX_TEXT = 4 * 1024 * 1024;
const latin1 = new TextDecoder("latin1");
const utf8 = new TextDecoder();
const READERS = [["imagegen", "imagegen", ownRequest], ["parameters", "AUTOMATIC1111", parametersRequest], ["prompt", "ComfyUI", comfyRequest]];

// {source, request}, or null for a file that says nothing.
export async function readRecipe(file) {
  if (file.size > MAX_FILE) return null;
  const bytes = new Uint8Array(await file.arrayBuffer());
  const isPng = PNG.every((byte, index) => bytes[index] === byte);
  const texts = isPng ? await pngTexts(bytes) : exifTexts(bytes);
  for (const [keyword, source, read] of READERS) {
    try {
      const request = texts[keyword] && read(texts[keyword]);
      if (request?.prompt) return { source, request };
    } catch {
      // Not what its keyword promises.
    }
  }
  return null;
}

async function pngTexts(bytes) {
  const view = new DataView(bytes.buffer);
  const texts = {};
  for (let at = PNG.length; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = latin1.decode(bytes.subarray(at + 4, at + 8));
    if (type === "IEND" || at + 12 + length > bytes.length) break;
    if (/^[tzi][ET]Xt$/i.test(type)) {
      const [keyword, text] = await pngText(type, bytes.subarray(at + 8, at + 8 + length));
      texts[keyword] ??= text;
    }
    at += 12 + length;
  }
  return texts;
}

async function pngText(type, data) {
  const end = data.indexOf(0);
  const keyword = latin1.decode(data.subarray(0, end));
  if (type === "tEXt") return [keyword, latin1.decode(data.subarray(end + 1))];
  if (type === "zTXt") return [keyword, latin1.decode(await inflate(data.subarray(end + 2)))];
  const isCompressed = data[end + 1] === 1;
  const afterLanguage = data.indexOf(0, end + 3) + 1;
  const text = data.subarray(data.indexOf(0, afterLanguage) + 1);
  return [keyword, utf8.decode(isCompressed ? await inflate(text) : text)];
}

async function inflate(data) {
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const chunks = [];
  for (let size = 0; size < MAX_TEXT; ) {
    const { value, done } = await reader.read();
    if (done) break;
    chunks.push(value);
    size += value.length;
  }
  reader.cancel().catch(() => {});
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

// JPEG and WebP have the same text in the EXIF tag UserComment, behind the name of its encoding.
function exifTexts(bytes) {
  const head = latin1.decode(bytes.subarray(0, 256 * 1024));
  const unicode = head.indexOf("UNICODE\0");
  if (unicode >= 0) return { parameters: utf16(bytes, unicode + 8) };
  const ascii = head.indexOf("ASCII\0\0\0");
  return ascii >= 0 ? { parameters: head.slice(ascii + 8).split("\0")[0] } : {};
}

function utf16(bytes, start) {
  const isLittle = bytes[start + 1] === 0;
  const length = Math.min(bytes.length - start, 64 * 1024) & ~1;
  const text = new TextDecoder(isLittle ? "utf-16le" : "utf-16be").decode(bytes.subarray(start, start + length));
  const steps = /\nSteps: [^\n]*?Version: [\w. -]+/.exec(text);
  return steps ? text.slice(0, steps.index + steps[0].length) : text.split("\0")[0];
}

function ownRequest(text) {
  const { request, seed, model, backend } = JSON.parse(text);
  return { ...request, seed: seed ?? request.seed, num_images: 1, model, backend };
}

// Lines of the prompt, then `Negative prompt: ...`, then `Steps: 20, Sampler: Euler a, ...`.
function parametersRequest(text) {
  const lines = text.split("\n");
  const last = lines.findLastIndex((line) => /^Steps: /.test(line));
  const settings = last >= 0 ? settingsOf(lines[last]) : {};
  const words = lines.slice(0, last >= 0 ? last : undefined);
  const start = words.findIndex((line) => line.startsWith("Negative prompt: "));
  const [prompt, negative] = start < 0 ? [words, []] : [words.slice(0, start), words.slice(start)];
  const [width, height] = (settings.Size ?? "").split("x").map(Number);
  return {
    prompt: prompt.join("\n").trim(),
    negative_prompt: negative.join("\n").replace("Negative prompt: ", "").trim() || undefined,
    model: settings.Model, scheduler: settings.Sampler, seed: numberOf(settings.Seed),
    width: width || undefined, height: height || undefined,
    num_inference_steps: numberOf(settings.Steps), guidance_scale: numberOf(settings["CFG scale"]),
  };
}

function settingsOf(line) {
  const pairs = line.matchAll(/\s*([\w /+-]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)/g);
  return Object.fromEntries([...pairs].map(([, name, value]) => [name, value.startsWith('"') ? unquoted(value) : value]));
}

function unquoted(value) {
  try { return JSON.parse(value); } catch { return value; }
}

// Of a number or its text; in ComfyUI, a value may be a link instead.
const numberOf = (value) => (/^[\d.-]+$/.test(value) && !Number.isNaN(Number(value)) ? Number(value) : undefined);

// The graph as the API of ComfyUI has it: {id: {class_type, inputs}}, where a link is [id, output].
function comfyRequest(text) {
  const nodes = JSON.parse(text);
  const all = Object.values(nodes);
  const sampler = all.find((node) => node.inputs?.positive && node.inputs?.negative);
  const inputs = sampler?.inputs ?? {};
  const latent = all.find((node) => /Empty.*Latent/.test(node.class_type))?.inputs ?? {};
  const loader = all.find((node) => node.inputs?.ckpt_name || node.inputs?.unet_name)?.inputs ?? {};
  return {
    prompt: linkedText(nodes, inputs.positive) ?? firstText(all),
    negative_prompt: linkedText(nodes, inputs.negative) || undefined,
    model: (loader.ckpt_name ?? loader.unet_name)?.replace(/\.(safetensors|ckpt|gguf)$/, ""),
    width: numberOf(latent.width), height: numberOf(latent.height),
    num_inference_steps: numberOf(inputs.steps), guidance_scale: numberOf(inputs.cfg),
    seed: numberOf(inputs.seed ?? inputs.noise_seed), scheduler: inputs.sampler_name,
  };
}

function linkedText(nodes, link, depth = 0) {
  if (typeof link === "string") return link;
  const inputs = Array.isArray(link) && depth < 8 ? nodes[link[0]]?.inputs : null;
  if (!inputs) return undefined;
  for (const name of ["text", "text_g", "string", "value", "positive", "conditioning"]) {
    const text = inputs[name] === undefined ? undefined : linkedText(nodes, inputs[name], depth + 1);
    if (text !== undefined) return text;
  }
  return undefined;
}

const firstText = (all) => all.find(({ class_type: type, inputs }) => /TextEncode/.test(type) && typeof inputs?.text === "string")?.inputs.text;
