"""Reads the workflows of compose/n8n and the expressions in them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[3] / "compose" / "n8n"
FILES = sorted(FOLDER.glob("*.json"))

#: The content of one `{{ }}`: a field of the item, of another node's item, or of the execution, plain or as JSON.
_EXPRESSION = re.compile(
    r"""(?P<json>JSON\.stringify\()?
    (?: \$(?P<root>json|execution|itemIndex|runIndex) | \$\('(?P<node>[^']+)'\)\.(?P<which>first\(\)|item)\.json )
    (?P<path>(?:\.[A-Za-z_]\w*)*)
    (?(json)\))""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Expression:
    root: str
    """`json`, `execution`, `itemIndex`, `runIndex`, or `node`."""
    node: str | None
    path: tuple[str, ...]
    as_json: bool

    @classmethod
    def parse(cls, text: str) -> "Expression":
        match = _EXPRESSION.fullmatch(text.strip())
        assert match, f"{{{{{text}}}}} is not an expression that the replay supports"
        path = tuple(part for part in match["path"].split(".") if part)
        return cls(match["root"] or "node", match["node"], path, bool(match["json"]))


def expressions(text: str) -> list[Expression]:
    """The expressions in a parameter. A parameter has some only if it begins with `=`."""
    return [Expression.parse(inner) for inner in re.findall(r"\{\{(.*?)\}\}", text)] if text.startswith("=") else []


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
