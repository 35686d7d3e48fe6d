"""Runs the workflows of compose/n8n as n8n does: node after node, with real requests."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.compose.n8n.javascript import JavaScript
from tests.compose.n8n.network import Network
from tests.compose.n8n.workflows import Node, Workflow
from tests.shared.webhooks.receiver import Receiver

#: The pause of a Wait node; n8n uses the one that the node sets.
PAUSE_SECONDS = 0.1
#: A loop that never ends is an error of the workflow.
MAX_RUNS = 400


class Stopped(Exception):
    """The execution failed."""


@dataclass(frozen=True)
class Item:
    json: Mapping[str, Any]
    binary: Mapping[str, bytes] = field(default_factory=dict)
    #: The item that led to this one at each node before, which n8n calls paired items.
    lineage: Mapping[str, "Item"] = field(default_factory=dict)

    def at(
        self, node: str, json_: Mapping[str, Any] | None = None, binary: Mapping[str, bytes] | None = None
    ) -> "Item":
        """What a node makes of this item."""
        new = Item(self.json if json_ is None else json_, self.binary if binary is None else binary, self.lineage)
        return Item(new.json, new.binary, {**self.lineage, node: new})


class Execution:
    """One run of a workflow. `settings` replace those of its nodes *Settings* and *Which execution*.

    `body` has more fields for the nodes that submit. A `trusting` execution resumes on any call, like an n8n that
    checks no header.
    """

    def __init__(
        self,
        workflow: Workflow,
        script: JavaScript,
        network: Network,
        hooks: Receiver,
        number: int,
        *,
        trusting: bool = False,
        body: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._workflow, self._script, self._network, self._hooks = workflow, script, network, hooks
        self._trusting, self._body = trusting, body or {}
        self._settings = {"base_url": network.base_url, **settings}
        self._execution = {"id": str(number), "resumeUrl": f"{hooks.origin}/webhook-waiting/{number}?signature=abc"}
        self._remaining: dict[str, list[Item]] = {}
        self._processed: dict[str, list[Item]] = {}
        self.runs: dict[str, list[list[Item]]] = {}
        """The output items of each node, one list per run."""

    def run(self) -> None:
        """Raises Stopped."""
        pending: list[tuple[Node, list[Item]]] = [(self._workflow.start, [Item({})])]
        for _ in range(MAX_RUNS):
            if not pending:
                return
            node, items = pending.pop(0)
            outputs = self._outputs(node, items[:1] if node.raw.get("executeOnce") else items)
            self.runs.setdefault(node.name, []).append([item for output in outputs for item in output])
            following = [
                (target, output)
                for number, output in enumerate(outputs)
                for target in self._workflow.targets(node.name, number)
                if output
            ]
            # One branch to its end, then the next.
            pending = following + pending
        raise AssertionError(f"the workflow does not end: {list(self.runs)}")

    def items(self, node: str) -> list[Item]:
        return [item for run in self.runs.get(node, ()) for item in run]

    def _outputs(self, node: Node, items: list[Item]) -> Sequence[list[Item]]:
        match node.kind:
            case "manualTrigger" | "noOp":
                return [[item.at(node.name) for item in items]]
            case "set":
                return [[self._set(node, item, items, index) for index, item in enumerate(items)]]
            case "httpRequest":
                return [[self._requested(node, item, items, index) for index, item in enumerate(items)]]
            case "if" | "switch":
                return self._branches(node, items)
            case "splitOut":
                return [[part for item in items for part in _parts(node, item)]]
            case "splitInBatches":
                return self._loop(node, items)
            case "wait":
                return [self._waited(node, items)]
            case "code":
                return [[_earlier(node, item) for item in items]]
            case "stopAndError":
                raise Stopped(self._value(node, node.parameters["errorMessage"], items[0], items))
            case _:
                raise AssertionError(f"the replay does not support nodes of kind {node.kind}")

    def _set(self, node: Node, item: Item, items: list[Item], index: int) -> Item:
        parameters = node.parameters
        if parameters.get("mode") == "raw":
            return item.at(node.name, self._value(node, parameters["jsonOutput"], item, items, index), {})
        assigned = {}
        for field_ in parameters["assignments"]["assignments"]:
            value = self._value(node, field_["value"], item, items, index)
            if node.name in ("Settings", "Which execution"):
                value = self._settings.get(field_["name"], value)
            assigned[field_["name"]] = (
                json.loads(value) if field_["type"] == "array" and isinstance(value, str) else value
            )
        excluded = re.split(r",\s*", parameters.get("excludeFields", ""))
        kept = {name: value for name, value in item.json.items() if name not in excluded}
        keeps = parameters.get("includeOtherFields", False)
        return item.at(node.name, {**(kept if keeps else {}), **assigned}, item.binary if keeps else {})

    def _branches(self, node: Node, items: list[Item]) -> Sequence[list[Item]]:
        rules = node.parameters.get("rules", {}).get("values") or [node.parameters]
        outputs: list[list[Item]] = [[] for _ in range(len(rules) + 1)]
        for index, item in enumerate(items):
            held = (
                number
                for number, rule in enumerate(rules)
                if self._value(node, rule["conditions"]["conditions"][0]["leftValue"], item, items, index)
            )
            outputs[next(held, len(rules))].append(item.at(node.name))
        return outputs

    def _loop(self, node: Node, items: list[Item]) -> Sequence[list[Item]]:
        if node.name not in self._remaining:
            self._remaining[node.name], self._processed[node.name] = list(items), []
        else:
            self._processed[node.name] += items
        waiting = self._remaining[node.name]
        done = [] if waiting else self._processed[node.name]
        return [[item.at(node.name) for item in done], [waiting.pop(0).at(node.name)] if waiting else []]

    def _waited(self, node: Node, items: list[Item]) -> list[Item]:
        if node.parameters.get("resume") != "webhook":
            time.sleep(PAUSE_SECONDS)
            return [item.at(node.name) for item in items]
        assert (node.parameters["httpMethod"], node.parameters["limitWaitTime"]) == ("POST", True)
        arrival = self._hooks.next()
        if not self._trusting:
            arrival.verify()
        assert f"{self._hooks.origin}{arrival.path}" == self._execution["resumeUrl"]
        return [items[0].at(node.name, {"headers": arrival.headers, "body": arrival.message})]

    def _requested(self, node: Node, item: Item, items: list[Item], index: int) -> Item:
        parameters = node.parameters

        def pairs(collection: str) -> dict[str, Any]:
            entries = parameters.get(collection, {}).get("parameters", ())
            plain = [entry for entry in entries if entry.get("parameterType") != "formBinaryData"]
            return {entry["name"]: self._value(node, entry["value"], item, items, index) for entry in plain}

        url = self._value(node, parameters["url"], item, items, index)
        if query := pairs("queryParameters"):
            url = str(requests.Request("GET", url, params=query).prepare().url)
        body, method = pairs("bodyParameters"), parameters.get("method", "GET")
        submits = method == "POST" and node.name != "Get an image"
        try:
            response = self._network.send(
                method,
                url,
                pairs("headerParameters"),
                {**body, **(self._body if submits else {})} if parameters.get("sendBody") else None,
                _files(parameters, item),
            )
        except requests.ConnectionError as error:
            return item.at(node.name, {"error": {"message": str(error)}}, {})
        return _answered(node, item, response)

    def _value(self, node: Node, text: Any, item: Item, items: list[Item], index: int = 0) -> Any:
        if not isinstance(text, str) or not text.startswith("="):
            return text
        parts = [part.partition("}}") for part in text[1:].split("{{")]
        if len(parts) == 2 and not parts[0][0] and not parts[1][2]:
            return self._evaluated(node, parts[1][0], item, items, index)
        found = [parts[0][0]]
        for code, _, rest in parts[1:]:
            found += [str(self._evaluated(node, code, item, items, index)), rest]
        return "".join(found)

    def _evaluated(self, node: Node, code: str, item: Item, items: list[Item], index: int) -> Any:
        runs = {name: [entry.json for entry in runs[-1]] for name, runs in self.runs.items()}
        nodes = {
            name: {"items": found, "item": item.lineage[name].json if name in item.lineage else None}
            for name, found in runs.items()
        }
        values = {
            "$json": item.json,
            "$execution": self._execution,
            "$nodeId": node.raw["id"],
            "$itemIndex": index,
            "$runIndex": len(self.runs.get(node.name, ())),
        }
        input_ = [entry.json for entry in items]
        return self._script.evaluate(code, {"values": values, "nodes": nodes, "input": input_})


def _files(parameters: Mapping[str, Any], item: Item) -> dict[str, Any]:
    entries = parameters.get("bodyParameters", {}).get("parameters", ())
    names = {
        entry["name"]: entry["inputDataFieldName"]
        for entry in entries
        if entry.get("parameterType") == "formBinaryData"
    }
    return {name: ("image.png", item.binary[source], "image/png") for name, source in names.items()}


def _answered(node: Node, item: Item, response: requests.Response) -> Item:
    """As n8n recognises the format of a response: a type of images is a file, every unknown one is text."""
    options = node.parameters["options"]["response"]["response"]
    kind = response.headers.get("content-type", "")
    metadata = {"headers": {k.lower(): v for k, v in response.headers.items()}, "statusCode": response.status_code}
    metadata["statusMessage"] = response.reason
    if not options.get("neverError") and not response.ok:
        raise Stopped(f"{response.status_code} - {response.text}")
    if kind.startswith("image/") or options.get("responseFormat") == "file":
        json_ = metadata if options.get("fullResponse") else item.json
        return item.at(node.name, json_, {**item.binary, "data": response.content})
    if kind.startswith("application/json"):
        return item.at(node.name, {**metadata, "body": response.json()}, {})
    return item.at(node.name, {**metadata, "data": response.text}, {})


def _parts(node: Node, item: Item) -> list[Item]:
    values: Any = item.json
    for name in node.parameters["fieldToSplitOut"].split("."):
        values = values[name]
    destination = node.parameters["options"].get("destinationFieldName")
    names = re.split(r",\s*", node.parameters.get("fieldsToInclude", ""))
    kept = {name: item.json[name] for name in names if name}
    return [item.at(node.name, {**kept, destination: value} if destination else value, {}) for value in values]


def _earlier(node: Node, item: Item) -> Item:
    """The Code nodes of the workflows go back to the item of an earlier node, with its image."""
    (name,) = re.findall(r"return \$\('(.+)'\)\.item;", node.parameters["jsCode"])
    earlier = item.lineage[name]
    return item.at(node.name, earlier.json, earlier.binary)
