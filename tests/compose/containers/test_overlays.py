"""What kubectl builds from the manifests and their components."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.compose.containers.manifests import FOLDER, Manifest, documents, name_of, require_valid

COMPONENTS = ("flux-local", "flux-api", "gpu", "bucket", "other-redis", "own-network", "autoscaling")


@pytest.fixture(scope="module")
def kubectl() -> str:
    path = shutil.which("kubectl")
    if path is None:
        pytest.skip("needs kubectl")
    return path


def built(kubectl: str, folder: Path) -> list[Manifest]:
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def overlay_of(folder: Path, *components: str) -> Path:
    """A folder for kubectl: the base with these components."""
    shutil.copytree(FOLDER, folder / "kubernetes", dirs_exist_ok=True)
    overlay = folder / "kubernetes/overlay"
    overlay.mkdir(exist_ok=True)
    kustomization = {"resources": ["../base"], "components": [f"../{name}" for name in components]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return overlay


def environment(manifests: list[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            yield from manifest["spec"]["template"]["spec"]["containers"][0]["env"]


def test_the_example_has_everything(kubectl: str) -> None:
    manifests = built(kubectl, FOLDER / "example")

    for manifest in manifests:
        require_valid(manifest)
    by_name = {name_of(manifest): manifest for manifest in manifests}
    sd = by_name["Deployment-worker-sd"]["spec"]["template"]["spec"]
    assert sd["containers"][0]["image"] == "registry.example.com/imagegen-worker:cuda"
    assert sd["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "replicas" not in by_name["Deployment-worker-sd"]["spec"]
    assert by_name["Deployment-api"]["spec"]["template"]["spec"]["containers"][0]["image"].endswith(
        "/imagegen-api:0.1.0"
    )
    assert "PersistentVolumeClaim-outputs" not in by_name
    assert "Deployment-worker-flux-local" in by_name
    assert "AWS_SECRET_ACCESS_KEY" in {entry["name"] for entry in environment(manifests)}
    (settings,) = (manifest["data"] for name, manifest in by_name.items() if name.startswith("ConfigMap-settings"))
    assert settings["SD_SHUTDOWN_GRACE_SECONDS"] == "300"
    assert settings["SD_OUTPUT_URL"].startswith("s3://")
    assert {manifest["metadata"].get("namespace", "imagegen") for manifest in manifests} == {"imagegen"}


@pytest.mark.parametrize("components", [(), *((name,) for name in COMPONENTS), COMPONENTS])
def test_every_component_builds_on_the_base(kubectl: str, tmp_path: Path, components: tuple[str, ...]) -> None:
    manifests = built(kubectl, overlay_of(tmp_path, *components))

    for manifest in manifests:
        require_valid(manifest)
    if "other-redis" in components:
        assert not [name for name in map(name_of, manifests) if name.endswith("-redis")]
        urls = [entry for entry in environment(manifests) if entry["name"] == "SD_REDIS_URL"]
        assert {url["valueFrom"]["secretKeyRef"]["key"] for url in urls} == {"SD_REDIS_URL"}
        assert "REDIS_PASSWORD" not in {entry["name"] for entry in environment(manifests)}
