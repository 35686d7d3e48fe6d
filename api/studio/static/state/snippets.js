// The request of a job as a program that others can copy.
import { BASE, session } from "./api.js";

const address = () => location.origin + BASE;
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const needsKey = () => Boolean(session.get().rights?.required);

export const languages = {
  curl(request) {
    const key = needsKey() ? ` \\\n  -H "X-API-Key: $IMAGEGEN_KEY"` : "";
    const body = quoted(JSON.stringify(request, null, 2));
    return `curl ${address()}/api/txt2img \\\n  -H 'Content-Type: application/json'${key} \\\n  -d ${body}\n`;
  },
  Python(request) {
    const key = needsKey() ? `\n    headers={"X-API-Key": os.environ["IMAGEGEN_KEY"]},` : "";
    const imports = needsKey() ? "import os\n\nimport requests" : "import requests";
    return `${imports}

answer = requests.post(
    "${address()}/api/txt2img",
    json=${pythonValue(request)},${key}
    timeout=120,
)
answer.raise_for_status()
job = answer.json()
print(job["images"][0]["url"])
`;
  },
  JavaScript(request) {
    const key = needsKey() ? `, "X-API-Key": process.env.IMAGEGEN_KEY` : "";
    return `const answer = await fetch("${address()}/api/txt2img", {
  method: "POST",
  headers: { "Content-Type": "application/json"${key} },
  body: JSON.stringify(${JSON.stringify(request, null, 2).replaceAll("\n", "\n  ")}),
});
const job = await answer.json();
console.log(job.images[0].url);
`;
  },
  JSON: (request) => `${JSON.stringify(request, null, 2)}\n`,
};

function pythonValue(request) {
  const words = { true: "True", false: "False", null: "None" };
  const lines = JSON.stringify(request, null, 4).split("\n");
  const translated = lines.map((line) => line.replace(/(: |^ +)(true|false|null)(,?)$/, (_, before, word, after) => before + words[word] + after));
  return translated.join("\n    ");
}

export async function copyText(text) {
  const isWritten = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  if (isWritten) return;
  // Without HTTPS, browsers have no clipboard but this one, and select nothing outside an open dialog.
  const area = Object.assign(document.createElement("textarea"), { value: text });
  const focused = document.activeElement;
  (focused.closest("dialog") ?? document.body).append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  focused.focus();
  if (!isCopied) throw new Error("This browser does not let the page copy.");
}
