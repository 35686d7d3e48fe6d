"""Runs the workflows of compose/n8n as n8n does: node after node, with real requests."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.compose.n8n.workflows import Expression, Node, Workflow
from tests.shared.webhooks.receiver import Receiver

#: Pause between tries; n8n uses the one that the node sets.
PAUSE_SECONDS = 0.05


class Stopped(Exception):
    """The execution failed."""


@dataclass(frozen=True)
class Item:
    json: Mapping[str, Any]
    binary: Mapping[str, bytes] = field(default_factory=dict)


class Network:
    """Sends every request to the service under test, whichever address a workflow names."""

    def __init__(self, base_url: str, api_url: str, key: str) -> None:
        self.base_url, self._api_url, self._key = base_url, api_url, key
        self.sent: list[requests.PreparedRequest] = []
        self.responses_to_drop = 0
        """How many responses to drop."""

    def send(self, method: str, url: str, headers: Mapping[str, str], body: object) -> requests.Response:
        assert url.startswith(self.base_url)
        host = self.base_url.removeprefix("http://")
        all_headers = {**headers, "Host": host, "X-API-Key": self._key}
        real = self._api_url + url.removeprefix(self.base_url)
        response = requests.request(method, real, headers=all_headers, json=body, timeout=30)
        self.sent.append(response.request)
        if self.responses_to_drop:
            self.responses_to_drop -= 1
            raise requests.ConnectionError("socket hang up")
        return response


class Execution:
    """One run of a workflow. `settings` replace those of its node *Settings*.

    A `trusting` execution resumes on any call, like an n8n that checks no header.
    """

    def __init__(
        self, workflow: Workflow, network: Network, hooks: Receiver, number: int, *, trusting: bool, **settings: Any
    ) -> None:
        self._workflow, self._network, self._hooks, self._trusting = workflow, network, hooks, trusting
        self._settings = {"base_url": network.base_url, **settings}
        self._execution = {"id": str(number), "resumeUrl": f"{hooks.origin}/webhook-waiting/{number}?signature=abc"}
        self._remaining: dict[str, list[Item]] = {}
        self._processed: dict[str, list[Item]] = {}
        self._running = ""
        self.runs: dict[str, list[list[Item]]] = {}
        """The output items of each node, one list per run."""

    def run(self) -> None:
        """Raises Stopped."""
        pending: list[tuple[Node, list[Item]]] = [(self._workflow.start, [Item({})])]
        while pending:
            node, items = pending.pop(0)
            self._running = node.name
            outputs = self._outputs(node, items)
            self.runs.setdefault(node.name, []).append([item for output in outputs for item in output])
            for number, output in enumerate(outputs):
                pending += [(target, output) for target in self._workflow.targets(node.name, number) if output]

    def _outputs(self, node: Node, items: list[Item]) -> Sequence[list[Item]]:
        match node.kind:
            case "manualTrigger" | "noOp":
                return [items]
            case "set":
                return [[self._set(node, item) for item in items]]
            case "httpRequest":
                return self._request(node, items)
            case "if":
                yes = [item for item in items if self._holds(node, item)]
                return [yes, [item for item in items if item not in yes]]
            case "splitOut":
                return [[part for item in items for part in _parts(node, item)]]
            case "splitInBatches":
                return self._loop(node, items)
            case "wait":
                return [[self._resumed(node)]]
            case "stopAndError":
                raise Stopped(self._value(node.parameters["errorMessage"], items[0]))
            case _:
                raise AssertionError(f"the replay does not support nodes of kind {node.kind}")

    def _set(self, node: Node, item: Item) -> Item:
        assigned = {}
        for field_ in node.parameters["assignments"]["assignments"]:
            value = self._value(field_["value"], item)
            assigned[field_["name"]] = json.loads(value) if field_["type"] == "array" else value
        return Item({**assigned, **(self._settings if node.name == "Settings" else {})})

    def _holds(self, node: Node, item: Item) -> bool:
        (condition,) = node.parameters["conditions"]["conditions"]
        assert condition["operator"]["operation"] == "equals"
        return bool(self._value(condition["leftValue"], item) == condition["rightValue"])

    def _loop(self, node: Node, items: list[Item]) -> Sequence[list[Item]]:
        if node.name not in self._remaining:
            self._remaining[node.name], self._processed[node.name] = list(items), []
        else:
            self._processed[node.name] += items
        waiting = self._remaining[node.name]
        return [[], [waiting.pop(0)]] if waiting else [self._processed[node.name], []]

    def _resumed(self, node: Node) -> Item:
        assert (node.parameters["resume"], node.parameters["httpMethod"]) == ("webhook", "POST")
        arrival = self._hooks.next()
        if not self._trusting:
            arrival.verify()
        assert f"{self._hooks.origin}{arrival.path}" == self._execution["resumeUrl"]
        return Item({"headers": arrival.headers, "body": arrival.message})

    def _request(self, node: Node, items: list[Item]) -> Sequence[list[Item]]:
        succeeded, failed = [], []
        for index, item in enumerate(items):
            try:
                succeeded.append(_output(node, item, self._with_retries(node, item, index)))
            except Stopped as error:
                if node.raw.get("onError") != "continueErrorOutput":
                    raise
                failed.append(Item({**item.json, "error": {"message": str(error)}}))
        return [succeeded, failed]

    def _with_retries(self, node: Node, item: Item, index: int) -> requests.Response:
        parameters = node.parameters
        url = self._value(parameters["url"], item, index)
        headers = self._pairs(parameters, "headerParameters", item, index)
        body = self._pairs(parameters, "bodyParameters", item, index) if parameters.get("sendBody") else None
        reason = ""
        for _ in range(node.raw["maxTries"]):
            try:
                response = self._network.send(parameters.get("method", "GET"), url, headers, body)
            except requests.ConnectionError as error:
                reason = str(error)
            else:
                if response.status_code < 400:
                    return response
                reason = f"{response.status_code} - {response.text}"
            time.sleep(PAUSE_SECONDS)
        raise Stopped(reason)

    def _pairs(self, parameters: Mapping[str, Any], collection: str, item: Item, index: int) -> dict[str, Any]:
        pairs = parameters.get(collection, {}).get("parameters", ())
        return {pair["name"]: self._value(pair["value"], item, index) for pair in pairs}

    def _value(self, text: Any, item: Item, index: int = 0) -> Any:
        if not isinstance(text, str) or not text.startswith("="):
            return text
        parts = [part.partition("}}") for part in text[1:].split("{{")]
        if len(parts) == 2 and not parts[0][0] and not parts[1][2]:
            return self._evaluated(Expression.parse(parts[1][0]), item, index)
        texts = [parts[0][0]]
        for expression, _, rest in parts[1:]:
            texts += [str(self._evaluated(Expression.parse(expression), item, index)), rest]
        return "".join(texts)

    def _evaluated(self, expression: Expression, item: Item, index: int) -> Any:
        match expression.root:
            case "itemIndex":
                value: Any = index
            case "runIndex":
                value = len(self.runs.get(self._running, ()))
            case "execution":
                value = self._execution
            case "json":
                value = item.json
            case _:
                value = self.runs[str(expression.node)][-1][0].json
        for name in expression.path:
            value = value[name]
        return json.dumps(value) if expression.as_json else value


def _parts(node: Node, item: Item) -> list[Item]:
    name = node.parameters["options"].get("destinationFieldName")
    return [Item({name: part} if name else part) for part in item.json[node.parameters["fieldToSplitOut"]]]


def _output(node: Node, item: Item, response: requests.Response) -> Item:
    options = node.parameters["options"].get("response", {}).get("response", {})
    metadata = {"headers": {k.lower(): v for k, v in response.headers.items()}, "statusCode": response.status_code}
    if options.get("responseFormat") == "file":
        json_ = metadata if options.get("fullResponse") else item.json
        return Item(json_, {options["outputPropertyName"]: response.content})
    return Item(response.json())
