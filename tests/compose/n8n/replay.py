"""n8n as far as the workflows in compose/n8n need it: their nodes, run one after the other, with real requests."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.compose.n8n.workflows import Expression, Node, Workflow
from tests.shared.webhooks.receiver import Receiver

#: Between two tries; n8n waits for as long as the node says.
PAUSE_SECONDS = 0.05


class Stopped(Exception):
    """The execution has failed."""


@dataclass(frozen=True)
class Item:
    json: Mapping[str, Any]
    binary: Mapping[str, bytes] = field(default_factory=dict)


class Network:
    """Where names lead: whatever service a workflow names is the one under test."""

    def __init__(self, base_url: str, api_url: str, key: str) -> None:
        self.base_url, self._api_url, self._key = base_url, api_url, key
        self.sent: list[requests.PreparedRequest] = []
        self.lose = 0
        """How many answers get lost on their way back."""

    def send(self, method: str, url: str, headers: Mapping[str, str], body: object) -> requests.Response:
        assert url.startswith(self.base_url)
        host = self.base_url.removeprefix("http://")
        told = {**headers, "Host": host, "X-API-Key": self._key}
        real = self._api_url + url.removeprefix(self.base_url)
        answered = requests.request(method, real, headers=told, json=body, timeout=30)
        self.sent.append(answered.request)
        if self.lose:
            self.lose -= 1
            raise requests.ConnectionError("socket hang up")
        return answered


class Execution:
    """One run of a workflow. `settings` are those of its node of that name.

    `trusting` executions are woken by whoever calls, as n8n is that looks at no header.
    """

    def __init__(
        self, workflow: Workflow, network: Network, hooks: Receiver, number: int, *, trusting: bool, **settings: Any
    ) -> None:
        self._workflow, self._network, self._hooks, self._trusting = workflow, network, hooks, trusting
        self._settings = {"base_url": network.base_url, **settings}
        self._about = {"id": str(number), "resumeUrl": f"{hooks.origin}/webhook-waiting/{number}?signature=abc"}
        self._loops: dict[str, list[Item]] = {}
        self._done: dict[str, list[Item]] = {}
        self._running = ""
        self.runs: dict[str, list[list[Item]]] = {}
        """What came out of each node, whichever way, each time that it ran."""

    def run(self) -> None:
        """Raises Stopped."""
        ahead: list[tuple[Node, list[Item]]] = [(self._workflow.start, [Item({})])]
        while ahead:
            node, items = ahead.pop(0)
            self._running = node.name
            outputs = self._outputs(node, items)
            self.runs.setdefault(node.name, []).append([item for output in outputs for item in output])
            for number, output in enumerate(outputs):
                ahead += [(target, output) for target in self._workflow.targets(node.name, number) if output]

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
                raise AssertionError(f"tests know no {node.kind}")

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
        if node.name not in self._loops:
            self._loops[node.name], self._done[node.name] = list(items), []
        else:
            self._done[node.name] += items
        waiting = self._loops[node.name]
        return [[], [waiting.pop(0)]] if waiting else [self._done[node.name], []]

    def _resumed(self, node: Node) -> Item:
        assert (node.parameters["resume"], node.parameters["httpMethod"]) == ("webhook", "POST")
        arrival = self._hooks.next()
        if not self._trusting:
            arrival.verify()
        assert f"{self._hooks.origin}{arrival.path}" == self._about["resumeUrl"]
        return Item({"headers": arrival.headers, "body": arrival.message})

    def _request(self, node: Node, items: list[Item]) -> Sequence[list[Item]]:
        made, failed = [], []
        for index, item in enumerate(items):
            try:
                made.append(_answered(node, item, self._tried(node, item, index)))
            except Stopped as error:
                if node.raw.get("onError") != "continueErrorOutput":
                    raise
                failed.append(Item({**item.json, "error": {"message": str(error)}}))
        return [made, failed]

    def _tried(self, node: Node, item: Item, index: int) -> requests.Response:
        told = node.parameters
        url = self._value(told["url"], item, index)
        headers = self._named(told, "headerParameters", item, index)
        body = self._named(told, "bodyParameters", item, index) if told.get("sendBody") else None
        why = ""
        for _ in range(node.raw["maxTries"]):
            try:
                answered = self._network.send(told.get("method", "GET"), url, headers, body)
            except requests.ConnectionError as error:
                why = str(error)
            else:
                if answered.status_code < 400:
                    return answered
                why = f"{answered.status_code} - {answered.text}"
            time.sleep(PAUSE_SECONDS)
        raise Stopped(why)

    def _named(self, told: Mapping[str, Any], collection: str, item: Item, index: int) -> dict[str, Any]:
        pairs = told.get(collection, {}).get("parameters", ())
        return {pair["name"]: self._value(pair["value"], item, index) for pair in pairs}

    def _value(self, text: Any, item: Item, index: int = 0) -> Any:
        if not isinstance(text, str) or not text.startswith("="):
            return text
        pieces = [piece.partition("}}") for piece in text[1:].split("{{")]
        if len(pieces) == 2 and not pieces[0][0] and not pieces[1][2]:
            return self._evaluated(Expression.parse(pieces[1][0]), item, index)
        told = [pieces[0][0]]
        for expression, _, rest in pieces[1:]:
            told += [str(self._evaluated(Expression.parse(expression), item, index)), rest]
        return "".join(told)

    def _evaluated(self, expression: Expression, item: Item, index: int) -> Any:
        match expression.root:
            case "itemIndex":
                found: Any = index
            case "runIndex":
                found = len(self.runs.get(self._running, ()))
            case "execution":
                found = self._about
            case "json":
                found = item.json
            case _:
                found = self.runs[str(expression.node)][-1][0].json
        for name in expression.path:
            found = found[name]
        return json.dumps(found) if expression.as_json else found


def _parts(node: Node, item: Item) -> list[Item]:
    name = node.parameters["options"].get("destinationFieldName")
    return [Item({name: part} if name else part) for part in item.json[node.parameters["fieldToSplitOut"]]]


def _answered(node: Node, item: Item, answered: requests.Response) -> Item:
    asked = node.parameters["options"].get("response", {}).get("response", {})
    about = {"headers": {k.lower(): v for k, v in answered.headers.items()}, "statusCode": answered.status_code}
    if asked.get("responseFormat") == "file":
        return Item(about if asked.get("fullResponse") else item.json, {asked["outputPropertyName"]: answered.content})
    return Item(answered.json())
