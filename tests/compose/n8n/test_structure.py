"""n8n 2 can import the workflows: core nodes in supported versions, connected, with valid expressions."""

import uuid
from pathlib import Path

import pytest

from tests.compose.n8n.workflows import FILES, Workflow, expressions, texts

#: Core nodes, their versions in every n8n 2, and their number of outputs.
CORE = {
    "manualTrigger": ({1}, 1),
    "set": ({3.4}, 1),
    "httpRequest": ({4.2}, 1),
    "if": ({2.2}, 2),
    "wait": ({1.1}, 1),
    "splitOut": ({1}, 1),
    "splitInBatches": ({3}, 2),
    "noOp": ({1}, 1),
    "stopAndError": ({1}, 0),
    "stickyNote": ({1}, 0),
}


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def workflow(request: pytest.FixtureRequest) -> Workflow:
    return Workflow(request.param)


def test_there_are_three_workflows() -> None:
    assert [path.name for path in FILES] == ["asynchronous.json", "batch.json", "synchronous.json"]


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
    assert workflow.reached(workflow.start.name) == set(workflow.nodes) - notes - {workflow.start.name}

    for name, connections in workflow.raw["connections"].items():
        node = workflow.nodes[name]
        outputs = CORE[node.kind][1] + (node.raw.get("onError") == "continueErrorOutput")
        assert set(connections) == {"main"}
        assert len(connections["main"]) <= outputs, name
        links = [link for output in connections["main"] for link in output]
        assert all(link["type"] == "main" and link["index"] == 0 for link in links)


def test_expressions_refer_to_earlier_nodes(workflow: Workflow) -> None:
    for node in workflow.nodes.values():
        for text in texts(node.parameters):
            for expression in expressions(text):
                if expression.node is not None:
                    assert node.name in workflow.reached(expression.node), f"{text} in {node.name}"


def test_keys_are_credentials_and_never_in_a_workflow(workflow: Workflow) -> None:
    for node in workflow.nodes.values():
        assert "credentials" not in node.raw
        if node.kind == "httpRequest":
            assert node.parameters["authentication"] == "genericCredentialType"
            assert node.parameters["genericAuthType"] == "httpHeaderAuth"
        if node.kind == "wait":
            assert node.parameters["incomingAuthentication"] == "headerAuth"


def test_every_post_can_be_retried_without_a_second_job(workflow: Workflow) -> None:
    for node in workflow.nodes.values():
        if node.parameters.get("method") == "POST":
            headers = {header["name"] for header in node.parameters["headerParameters"]["parameters"]}
            assert node.raw["retryOnFail"]
            assert "Idempotency-Key" in headers


def test_the_document_links_every_workflow() -> None:
    document = (Path(__file__).parents[3] / "docs" / "n8n.md").read_text()

    for path in FILES:
        assert f"(../compose/n8n/{path.name})" in document
