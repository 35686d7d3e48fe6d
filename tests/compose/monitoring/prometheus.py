"""A real Prometheus, and the queries of the dashboard and the alerts."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.stack import free_port
from tests.support.process import Process

FOLDER = Path(__file__).parents[3] / "compose/monitoring"
BINARY = shutil.which("prometheus")
#: The values that Grafana inserts.
VARIABLES = {"$backend": ".*", "$__rate_interval": "1m"}
#: The names of labels in expressions.
_LABELS = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"|(?:by|on)\s*\(([^)]*)\)")


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "grafana/dashboards/imagegen.json").read_text())
    return content


def queries() -> Iterator[tuple[str, str, str]]:
    """Title of the panel, expression and legend of each query."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield panel["title"], expression, target["legendFormat"]


def alerts() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"imagegen_\w+", expression))


def labels_in(expression: str) -> set[str]:
    matches = _LABELS.findall(expression)
    return {label for label, _ in matches if label} | {
        name.strip() for _, names in matches for name in names.split(",") if names
    }


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        response = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10).json()
        assert response["status"] == "success", response
        return response["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result


@contextmanager
def prometheus(folder: Path, targets: Sequence[str], key: str) -> Iterator[Prometheus]:
    """Has the configuration of the stack, except targets, key and scrape interval."""
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["stable-diffusion:7860"]}]
    job["static_configs"] = [{"targets": list(targets)}]
    job["authorization"]["credentials_file"] = str(folder / "key")
    config["global"]["scrape_interval"] = "500ms"
    (folder / "key").write_text(key)
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(FOLDER / "alerts.yaml", folder)
    address = f"127.0.0.1:{free_port()}"
    files = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/series"]
    server = Process([str(BINARY), *files, f"--web.listen-address={address}"], folder)
    try:
        server.wait_for("Server is ready to receive web requests")
        yield Prometheus(f"http://{address}")
    finally:
        server.kill()
