"""n8n 2 can import the workflows: core nodes in supported versions, connected, with keys that are unique."""

import json
import re
import uuid
from pathlib import Path

import pytest

from tests.compose.n8n.workflows import FILES, Node, Workflow, expressions, referred_nodes, texts

#: Core nodes, their versions in every n8n 2, and their number of outputs.
CORE: dict[str, tuple[set[float], int]] = {
    "manualTrigger": ({1}, 1),
    "errorTrigger": ({1}, 1),
    "set": ({3.4}, 1),
    "httpRequest": ({4.2}, 1),
    "if": ({2.2}, 2),
    "switch": ({3.2}, 4),
    "wait": ({1.1}, 1),
    "splitOut": ({1}, 1),
    "splitInBatches": ({3}, 2),
    "code": ({2}, 1),
    "noOp": ({1}, 1),
    "stopAndError": ({1}, 0),
    "stickyNote": ({1}, 0),
}


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def workflow(request: pytest.FixtureRequest) -> Workflow:
    return Workflow(request.param)


def submissions(workflow: Workflow) -> list[Node]:
    return [node for node in workflow.nodes.values() if node.parameters.get("method") == "POST"]


def sent_headers(node: Node) -> dict[str, str]:
    return {header["name"]: header["value"] for header in node.parameters["headerParameters"]["parameters"]}


def test_the_files_have_different_ids_by_which_n8n_imports_them() -> None:
    ids = [json.loads(path.read_text())["id"] for path in FILES]

    assert len(set(ids)) == len(FILES)
    assert all(re.fullmatch(r"\w{16}", value) for value in ids)


def test_every_node_is_a_core_node_in_a_version_of_n8n_2(workflow: Workflow) -> None:
    for node in workflow.nodes.values():
        assert node.raw["type"].startswith("n8n-nodes-base.")
        assert node.raw["typeVersion"] in CORE[node.kind][0], node.name
        assert len(node.raw["position"]) == 2


def test_names_and_ids_are_unique(workflow: Workflow) -> None:
    raw = workflow.raw["nodes"]
    ids = [node["id"] for node in raw] + [node["webhookId"] for node in raw if "webhookId" in node]
    for values in ids, [node["name"] for node in raw], [tuple(node["position"]) for node in raw]:
        assert len(set(values)) == len(values)
    for value in ids:
        uuid.UUID(value)


def test_every_node_except_the_note_is_connected_and_every_output_exists(workflow: Workflow) -> None:
    notes = {name for name, node in workflow.nodes.items() if node.kind == "stickyNote"}
    triggers = {name for name, node in workflow.nodes.items() if node.kind in ("manualTrigger", "errorTrigger")}
    reached = set().union(*(workflow.reached(trigger) for trigger in triggers))
    assert reached == set(workflow.nodes) - notes - triggers

    for name, connections in workflow.raw["connections"].items():
        assert set(connections) == {"main"}
        assert len(connections["main"]) <= CORE[workflow.nodes[name].kind][1], name
        links = [link for output in connections["main"] for link in output]
        assert all(link["type"] == "main" and link["index"] == 0 for link in links)


def test_expressions_refer_to_earlier_nodes(workflow: Workflow) -> None:
    for node in workflow.nodes.values():
        code = [part for text in texts(node.parameters) for part in expressions(text)]
        for part in [*code, node.parameters.get("jsCode", "")]:
            for name in referred_nodes(part):
                assert node.name in workflow.reached(name), f"{part} in {node.name}"


def test_keys_are_credentials_and_never_in_a_workflow(workflow: Workflow) -> None:
    for node in workflow.nodes.values():
        assert "credentials" not in node.raw
        if node.kind == "httpRequest":
            assert node.parameters["authentication"] == "genericCredentialType"
            assert node.parameters["genericAuthType"] == "httpHeaderAuth"
        if node.parameters.get("resume") == "webhook":
            assert node.parameters["incomingAuthentication"] == "headerAuth"


def test_every_submission_has_a_key_of_this_installation_execution_node_run_and_item(workflow: Workflow) -> None:
    for node in submissions(workflow):
        key = sent_headers(node)["Idempotency-Key"]
        source = re.match(r"=\{\{ \$\('(.+)'\)\.item\.json\.key \}\}-\{\{ \$nodeId \}\}", key)
        if source:
            fields = workflow.nodes[source[1]].parameters["assignments"]["assignments"]
            key = next(field["value"] for field in fields if field["name"] == "key")
        for part in ('$execution.resumeUrl.hash("sha256")', "$nodeId", "$runIndex", "$itemIndex"):
            assert part in key, f"{key} in {node.name}"


def test_every_submission_that_is_tried_again_has_a_label_and_its_answer_is_looked_at(workflow: Workflow) -> None:
    for node in submissions(workflow):
        if node.raw.get("retryOnFail"):
            continue
        body = {field["name"] for field in node.parameters["bodyParameters"]["parameters"]}
        assert {"prompt", "label"} <= body
        assert node.parameters["options"]["response"]["response"] == {"fullResponse": True, "neverError": True}
        (switch,) = workflow.targets(node.name, 0)
        assert switch.kind == "switch"
        (pause,) = workflow.targets(switch.name, 1)
        assert pause.kind == "wait"
        assert node.name in workflow.reached(pause.name)


def test_the_document_links_every_workflow() -> None:
    document = (Path(__file__).parents[3] / "docs" / "n8n.md").read_text()

    for path in FILES:
        assert f"(../compose/n8n/{path.name})" in document
