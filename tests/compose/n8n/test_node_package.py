"""The n8n nodes of compose/n8n/node agree with the service and with what n8n wants of a package."""

import json
import re

from shared.jobs.requests import GenerationRequest
from shared.jobs.states import State
from shared.jobs.types import OutputFormat, WebhookEvent
from tests.compose.n8n.workflows import FOLDER

PACKAGE = FOLDER / "node"
#: Options that are no fields of a request: they say where the node finds its values.
OF_THE_NODE = {"maskProperty", "more"}


def source(path: str) -> str:
    return (PACKAGE / path).read_text()


def test_every_option_of_the_node_is_a_field_of_a_request() -> None:
    options = re.search(r"^const OPTIONS.*?^\];", source("nodes/Imagegen/properties.ts"), re.MULTILINE | re.DOTALL)
    assert options
    names = set(re.findall(r"displayName: '[^']+',\s+name: '(\w+)'", options[0]))

    assert "negative_prompt" in names
    assert names - OF_THE_NODE <= set(GenerationRequest.model_fields)


def test_the_node_offers_every_format_and_knows_every_final_state_and_event() -> None:
    formats = re.findall(r"name: '(?:JPEG|PNG|WebP)', value: '(\w+)'", source("nodes/Imagegen/properties.ts"))
    ended = re.search(r"hasEnded.*?\[(.*?)\]", source("nodes/Imagegen/service.ts"), re.DOTALL)
    events = set(re.findall(r"value: 'job\.(\w+)'", source("nodes/ImagegenTrigger/ImagegenTrigger.node.ts")))

    assert ended
    assert set(formats) == set(OutputFormat)
    assert {state.strip(" '") for state in ended[1].split(",")} == {state for state in State if state.is_terminal}
    # Progress would start a workflow for every step.
    assert events == set(WebhookEvent) - {"progress"}


def test_the_package_names_its_sources_needs_nothing_at_runtime_and_pins_its_tools() -> None:
    package = json.loads(source("package.json"))

    compiled = [*package["n8n"]["credentials"], *package["n8n"]["nodes"]]
    sources = [PACKAGE / re.sub(r"^dist/(.*)\.js$", r"\1.ts", path) for path in compiled]
    assert all(path.is_file() for path in sources)
    assert "dependencies" not in package
    assert all(re.fullmatch(r"[\d.]+", version) for version in package["devDependencies"].values())
    assert not {"install", "postinstall", "prepare"} & set(package["scripts"])
