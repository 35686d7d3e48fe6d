"""Reads the workflows of compose/n8n and the expressions in them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[3] / "compose" / "n8n"
FILES = sorted(FOLDER.glob("*.json"))


def expressions(text: str) -> list[str]:
    """The code of each expression in a parameter. A parameter has some only if it begins with `=`."""
    return re.findall(r"\{\{(.*?)\}\}", text, re.DOTALL) if text.startswith("=") else []


def referred_nodes(code: str) -> set[str]:
    """The names of the nodes whose items an expression or the code of a Code node reads."""
    return set(re.findall(r"\$\('([^']+)'\)", code))


def texts(value: Any) -> Iterator[str]:
    """Every text in a parameter, however deeply nested."""
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():
                yield from texts(inner)
        case list():
            for inner in value:
                yield from texts(inner)


@dataclass(frozen=True)
class Node:
    name: str
    kind: str
    """The type without its prefix `n8n-nodes-base.`."""
    parameters: Mapping[str, Any]
    raw: Mapping[str, Any]


class Workflow:
    def __init__(self, path: Path) -> None:
        self.raw: dict[str, Any] = json.loads(path.read_text())
        self.nodes = {raw["name"]: _node(raw) for raw in self.raw["nodes"]}

    @property
    def start(self) -> Node:
        (start,) = [node for node in self.nodes.values() if node.kind == "manualTrigger"]
        return start

    def targets(self, name: str, output: int) -> list[Node]:
        outputs = self.raw["connections"].get(name, {}).get("main", [])
        return [self.nodes[link["node"]] for link in outputs[output]] if output < len(outputs) else []

    def reached(self, name: str) -> set[str]:
        """The names of all nodes after this one."""
        found: set[str] = set()
        pending = [name]
        while pending:
            outputs = self.raw["connections"].get(pending.pop(), {}).get("main", [])
            new = {link["node"] for output in outputs for link in output} - found
            found |= new
            pending += new
        return found


def _node(raw: Mapping[str, Any]) -> Node:
    return Node(raw["name"], raw["type"].removeprefix("n8n-nodes-base."), raw["parameters"], raw)
