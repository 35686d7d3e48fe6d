"""The manifests in compose/kubernetes, read and validated."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "compose/kubernetes"
KUBERNETES = "1.33"

Manifest = dict[str, Any]


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


MANIFESTS = [
    document
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in documents(path.read_text())
]
WORKLOADS = {
    manifest["metadata"]["name"]: manifest
    for manifest in MANIFESTS
    if manifest["kind"] in ("Deployment", "StatefulSet")
}
WORKERS = [name for name in WORKLOADS if name.startswith("worker-")]


def pod(name: str) -> Manifest:
    spec: Manifest = WORKLOADS[name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> Manifest:
    (only,) = pod(name)["containers"]
    return only


def base_settings() -> dict[str, str]:
    lines = (FOLDER / "base/settings.env").read_text().split()
    return dict(line.split("=", 1) for line in lines)


def is_of_kubernetes(manifest: Manifest) -> bool:
    """Not of an operator that is installed in the cluster."""
    return not manifest["apiVersion"].startswith(("keda.sh", "monitoring.coreos.com"))


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def require_valid(manifest: Manifest) -> None:
    if is_of_kubernetes(manifest):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
