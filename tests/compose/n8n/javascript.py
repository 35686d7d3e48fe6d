"""Evaluates the expressions of workflows as n8n does: in JavaScript, by a Node that runs beside the tests."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

#: What n8n offers to expressions, as far as the workflows use it.
_DRIVER = r"""
const crypto = require("crypto");
String.prototype.hash = function (kind) { return crypto.createHash(kind).update(String(this)).digest("hex"); };
const moment = (ms) => ({ toMillis: () => ms, plus: ({ minutes }) => moment(ms + minutes * 60000) });
const evaluate = (code, scope) => {
  const names = Object.keys(scope);
  return new Function(...names, `return (${code});`)(...names.map((name) => scope[name]));
};
const reference = (scope) => (name) => {
  const node = scope.nodes[name];
  if (node === undefined) throw new Error(`the node ${name} has not run`);
  const json = (value) => ({ json: value });
  return { item: json(node.item), first: () => json(node.items[0]), last: () => json(node.items.at(-1)) };
};
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { code, scope } = JSON.parse(line);
  const $input = { all: () => scope.input.map((json) => ({ json })) };
  const given = { $: reference(scope), $input, $now: moment(Date.now()), ...scope.values };
  let answer;
  try { answer = { value: evaluate(code, given) ?? null }; } catch (error) { answer = { error: String(error) }; }
  console.log(JSON.stringify(answer));
});
"""


class ExpressionError(Exception):
    """An expression could not be evaluated."""


class JavaScript:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def evaluate(self, code: str, scope: Mapping[str, Any]) -> Any:
        """Raises ExpressionError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"code": code, "scope": scope}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise ExpressionError(f"{answer['error']} in {code}")
        return answer["value"]


@contextmanager
def javascript() -> Iterator[JavaScript]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    with subprocess.Popen([node, "-e", _DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield JavaScript(process)
