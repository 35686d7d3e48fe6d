"""n8n's OpenAI node with this service behind it, checked in a real n8n."""

from typing import Any

import requests

from tests.compose.n8n.trial.checks.building import Check, chain, images, node, verdict
from tests.compose.n8n.trial.workshop import KEY, Workshop

KIND, VERSION = "@n8n/n8n-nodes-langchain.openAi", 2.3


def the_models_are_listed(workshop: Workshop) -> str:
    data = _data(workshop)
    reference = _credentials(workshop)["openAiApi"]
    assert verdict(workshop, reference, "openAiApi", data) == "OK"
    assert verdict(workshop, reference, "openAiApi", {**data, "apiKey": "wrong-key-0123456789"}) == "Error"
    query = {
        "path": "parameters.modelId",
        "methodName": "imageGenerateModelSearch",
        "nodeTypeAndVersion": {"name": KIND, "version": VERSION},
        "currentNodeParameters": {},
        "credentials": _credentials(workshop),
    }
    found = workshop.n8n.call("POST", "/rest/dynamic-node-parameters/resource-locator-results", query)["results"]
    assert {"gpt-image-1", "dall-e-2", "dall-e-3"} <= {entry["value"] for entry in found}, found
    return ", ".join(f"`{entry['value']}`" for entry in found)


def images_are_generated(workshop: Workshop) -> str:
    gpt = _step(workshop, "gpt", model="gpt-image-1", options={"size": "1024x1536", "quality": "high"})
    dalle = _step(workshop, "dalle", model="dall-e-3", options={"size": "1024x1024", "style": "vivid"})
    links = _step(workshop, "links", model="dall-e-2", options={"n": 2, "returnImageUrls": True})
    result = workshop.run(chain(gpt, dalle, links))
    assert len(images(result, "gpt")) == len(images(result, "dalle")) == 1, result.error
    addresses = [item["json"]["url"] for item in result.items("links")]
    assert len(addresses) == 2, addresses
    assert all(requests.get(url, timeout=60).content.startswith(b"\x89PNG") for url in addresses)
    return "*Generate an Image* with GPT Image and DALL-E, as a file and as links"


def images_are_changed(workshop: Workshop) -> str:
    first = _step(workshop, "first", model="gpt-image-1")
    file = {"values": [{"binaryPropertyName": "data"}]}
    gpt = _step(workshop, "gpt", "edit", model="gpt-image-1", images=file, size="1024x1024")
    dalle = _step(workshop, "dalle", "edit", model="dall-e-2", binaryPropertyName="data", responseFormat="url")
    result = workshop.run(chain(first, gpt, dalle))
    assert len(images(result, "gpt")) == 1, result.error
    (link,) = result.items("dalle")
    assert requests.get(link["json"]["url"], timeout=60).content.startswith(b"\x89PNG")
    return "*Edit Image* with GPT Image and DALL-E"


def several_items_and_a_full_queue(workshop: Workshop) -> str:
    """All workers are busy for longer than a call of other clients waits."""
    prompts = {"mode": "raw", "jsonOutput": '{"prompts": ["a", "b", "c"]}', "options": {}}
    split = {"fieldToSplitOut": "prompts", "options": {}}
    workflow = chain(
        node("Prompts", "n8n-nodes-base.set", 3.4, prompts),
        node("Split", "n8n-nodes-base.splitOut", 1, split),
        _step(workshop, "drawn", model="gpt-image-1", prompt="={{ $json.prompts }}"),
    )
    for _ in range(2):
        body = {"prompt": "busy", "metadata": {"simulate": {"seconds": 12}}}
        requests.post(f"{workshop.service.url}/api/jobs", json=body, headers={"X-API-Key": KEY}, timeout=60)
    before = {job["id"] for job in workshop.service.jobs()}
    result = workshop.run(workflow)
    assert len(images(result, "drawn")) == 3, result.error
    created = [job for job in workshop.service.jobs() if job["id"] not in before]
    assert len(created) == 3, created
    return "three items behind jobs of 12 s: three images, one job each"


def problems_are_named(workshop: Workshop) -> str:
    workflow = chain(_step(workshop, "wrong", model="gpt-image-99"))
    result = workshop.run(workflow)
    assert result.error["description"].startswith("No model has this name"), result.error
    return f"`{result.error['description']}`"


def _data(workshop: Workshop) -> dict[str, str]:
    return {"apiKey": KEY, "url": f"{workshop.service.url}/v1"}


def _credentials(workshop: Workshop) -> dict[str, dict[str, str]]:
    if "openai" not in workshop.credentials:
        created = workshop.n8n.create_credential("imagegen as OpenAI", "openAiApi", _data(workshop))
        workshop.credentials["openai"] = created
    return {"openAiApi": workshop.credentials["openai"]}


def _step(workshop: Workshop, name: str, operation: str = "generate", **parameters: Any) -> dict[str, Any]:
    model = {"__rl": True, "mode": "list", "value": parameters.pop("model")}
    fixed = {"resource": "image", "operation": operation, "modelId": model, "prompt": "a castle", "options": {}}
    return node(name, KIND, VERSION, fixed | parameters, _credentials(workshop))


OPENAI: dict[str, Check] = {
    "OpenAI node: credential and models": the_models_are_listed,
    "OpenAI node: generate": images_are_generated,
    "OpenAI node: edit": images_are_changed,
    "OpenAI node: several items": several_items_and_a_full_queue,
    "OpenAI node: problems": problems_are_named,
}
