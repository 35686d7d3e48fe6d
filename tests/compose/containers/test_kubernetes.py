"""What can be told of the manifests without a cluster; where kubectl is installed, also of what it makes of them."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from api.edge.public_paths import PUBLIC
from shared.jobs.types import Backend
from shared.settings.api import ApiSettings
from shared.settings.launcher import LauncherSettings
from shared.settings.service import PREFIX
from tools import env_example
from tools.unpinned_images import unpinned

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "compose/kubernetes"
STACK: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
#: What Compose has that Kubernetes does in other ways, or that people look at.
COMPOSE_ONLY = {"stable-diffusion", "flower", "settings", "imagegen"}
COMPONENTS = ("flux-local", "flux-api", "gpu", "bucket", "other-redis", "own-network", "autoscaling")
KUBERNETES = "1.33"
#: What the images let be written; see their Dockerfiles.
WRITABLE = {"/app/outputs", "/app/models", "/tmp", "/data"}  # noqa: S108
SETTINGS = {f"{PREFIX}{field}".upper() for field in LauncherSettings.model_fields}
KNOWN = SETTINGS | {name for name, _ in env_example.BUCKETS}

Manifest = dict[str, Any]


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


MANIFESTS = [
    document
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in documents(path.read_text())
]
WORKLOADS = {each["metadata"]["name"]: each for each in MANIFESTS if each["kind"] in ("Deployment", "StatefulSet")}
WORKERS = [name for name in WORKLOADS if name.startswith("worker-")]


def pod(name: str) -> Manifest:
    spec: Manifest = WORKLOADS[name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> Manifest:
    (only,) = pod(name)["containers"]
    found: Manifest = only
    return found


def base_settings() -> dict[str, str]:
    lines = (FOLDER / "base/settings.env").read_text().split()
    return dict(line.split("=", 1) for line in lines)


def is_of_kubernetes(manifest: Manifest) -> bool:
    """And not of what may be installed in a cluster."""
    return not manifest["apiVersion"].startswith(("keda.sh", "monitoring.coreos.com"))


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def require_valid(manifest: Manifest) -> None:
    if is_of_kubernetes(manifest):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name_of)
def test_every_manifest_is_one(manifest: Manifest) -> None:
    require_valid(manifest)


def test_all_that_compose_starts_is_there_but_the_dashboard() -> None:
    images = {re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"]) for service in STACK.values()}

    assert {*WORKLOADS} == {"api", *{*STACK} - COMPOSE_ONLY}
    assert {container(name)["image"] for name in WORKLOADS} == images


def policies() -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each["spec"] for each in MANIFESTS if each["kind"] == "NetworkPolicy"}


def reached(name: str, direction: str) -> list[Manifest]:
    """The rules of base for a pod."""
    named = {"app.kubernetes.io/name": name}
    own = set(policies()) - {"own-servers", "own-receivers"}
    return [
        rule
        for policy in (policies()[policy] for policy in own)
        if selects(policy["podSelector"], named)
        for rule in policy.get(direction, ())
    ]


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    others = selector.get("matchExpressions", ())
    assert all(each["operator"] == "NotIn" for each in others)
    return wanted <= labels.items() and not [each for each in others if labels[each["key"]] in each["values"]]


def test_everything_is_denied_that_is_not_allowed() -> None:
    assert policies()["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in WORKLOADS:
        allowed = [port["port"] for rule in reached(name, "egress") for port in rule["ports"]]
        assert sorted(allowed) == ([53, 53] if name == "redis" else [53, 53, 80, 443, 6379])
        came = [port["port"] for rule in reached(name, "ingress") for port in rule["ports"]]
        assert came == {"api": ["http"], "redis": ["redis"]}.get(name, [])


def test_no_private_network_is_reached_unless_it_is_named() -> None:
    blocks = [to["ipBlock"] for to in policies()["internet"]["egress"][0]["to"]]
    denied = [ip_network(denied) for block in blocks for denied in block["except"]]

    for address in ("10.1.2.3", "100.64.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1", "fd00::1", "fe80::1"):
        assert [network for network in denied if ip_address(address) in network], address


def test_images_without_a_digest_are_found() -> None:
    pinned = f"registry.example.com/imagegen-api@sha256:{'0f' * 32}"
    text = f"spec:\n  - image: {pinned}\n    x: y\n  image: 'valkey/valkey:9-alpine'\n"

    assert unpinned(text) == ["valkey/valkey:9-alpine"]
    assert unpinned((FOLDER / "base/api.yaml").read_text()) == ["imagegen-api"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_pod_is_hardened(name: str) -> None:
    told, contained = pod(name), container(name)

    assert told["securityContext"]["runAsNonRoot"]
    assert told["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert told["securityContext"]["runAsUser"] == (999 if name == "redis" else 10001)
    assert (told["automountServiceAccountToken"], told["enableServiceLinks"]) == (False, False)
    assert contained["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert contained["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_only_what_may_be_written_is_mounted_and_it_is_there(name: str) -> None:
    volumes = {volume["name"]: volume for volume in pod(name).get("volumes", ())}
    claims = {each["metadata"]["name"] for each in MANIFESTS if each["kind"] == "PersistentVolumeClaim"}
    templates = {claim["metadata"]["name"] for claim in WORKLOADS[name]["spec"].get("volumeClaimTemplates", ())}
    mounts = container(name)["volumeMounts"]

    assert {mount["mountPath"] for mount in mounts} <= WRITABLE
    assert {mount["name"] for mount in mounts} == {*volumes} | templates
    named = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in volumes.values()
        if len(volume) == 2 and "persistentVolumeClaim" in volume
    }
    assert named <= claims
    # The overlay for buckets replaces the first one.
    assert name == "redis" or next(iter(volumes)) == "outputs"


def test_every_variable_is_a_setting() -> None:
    text = "\n".join(path.read_text() for path in FOLDER.rglob("*") if path.is_file())
    named = {*re.findall(r"\b(?:SD|AWS)_[A-Z0-9_]*[A-Z0-9]", text)}

    assert named <= KNOWN
    assert {"SD_REDIS_URL", "SD_API_KEY", "SD_OUTPUT_URL", "AWS_REGION"} < named


@pytest.mark.parametrize("folder", ["base", "example"])
def test_settings_are_ones_that_the_service_takes(folder: str) -> None:
    lines = (FOLDER / folder / "settings.env").read_text().split()
    fields = {name.removeprefix(PREFIX).lower(): value for name, value in (line.split("=", 1) for line in lines)}

    settings = ApiSettings(
        _env_file=None, **{name: value for name, value in fields.items() if name in ApiSettings.model_fields}
    )  # type: ignore[arg-type]

    assert Backend.SD in settings.backends


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "redis"])
def test_who_needs_redis_is_told_where_it_is_in_the_order_that_overlays_rely_on(name: str) -> None:
    told = container(name)["env"]
    first = 1 if name in WORKERS else 0

    assert [entry["name"] for entry in told][first : first + 2] == ["REDIS_PASSWORD", "SD_REDIS_URL"]
    assert told[first + 1]["value"] == "redis://:$(REDIS_PASSWORD)@redis:6379/0"
    assert container(name)["envFrom"] == [{"configMapRef": {"name": "settings"}}]


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_serves_its_backend_and_is_given_longer_to_stop_than_it_takes(name: str) -> None:
    grace = int(base_settings()["SD_SHUTDOWN_GRACE_SECONDS"])

    assert container(name)["env"][0] == {"name": "SD_BACKEND", "value": name.removeprefix("worker-")}
    assert pod(name)["terminationGracePeriodSeconds"] >= grace + 60


def test_probes_ask_for_what_there_is() -> None:
    probed = [probe for name in WORKLOADS for key, probe in container(name).items() if key.endswith("Probe")]

    for probe in probed:
        if "httpGet" in probe:
            assert probe["httpGet"]["path"] in PUBLIC
            assert probe["httpGet"]["httpHeaders"] == [{"name": "Host", "value": "localhost"}]
        elif probe["exec"]["command"][0] == "python3":
            assert importlib.util.find_spec(probe["exec"]["command"][2])
    assert len(probed) >= len(WORKLOADS)
    (port,) = container("api")["ports"]
    assert port == {"name": "http", "containerPort": LauncherSettings.model_fields["port"].default}


def test_containers_run_what_compose_runs() -> None:
    def conf(script: str) -> str:
        return script.replace("$$", "$")

    assert container("housekeeper")["command"] == STACK["housekeeper"]["command"]
    assert container("redis")["command"][-1] == conf(STACK["redis"]["command"][-1])
    assert not [name for name in WORKLOADS if name not in ("housekeeper", "redis") and "command" in container(name)]


def test_services_lead_to_pods() -> None:
    for manifest in MANIFESTS:
        match manifest["kind"]:
            case "Service":
                name = manifest["spec"]["selector"]["app.kubernetes.io/name"]
                ports = {port["name"] for port in container(name)["ports"]}
                assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= ports
            case "Deployment" | "StatefulSet":
                labels = manifest["spec"]["template"]["metadata"]["labels"]
                assert manifest["spec"]["selector"]["matchLabels"] == labels
                assert labels["app.kubernetes.io/name"] == manifest["metadata"]["name"]


def test_the_autoscaler_asks_for_metrics_that_there_are() -> None:
    (scaler,) = (each for each in MANIFESTS if each["kind"] == "ScaledObject")
    (trigger,) = scaler["spec"]["triggers"]
    told = (ROOT / "docs/monitoring.md").read_text()

    assert scaler["spec"]["scaleTargetRef"]["name"] in WORKERS
    metrics = re.findall(r"imagegen_\w+", trigger["metadata"]["query"])
    assert metrics == ["imagegen_queue_jobs", "imagegen_jobs_running"]
    assert all(f"| `{metric}` | gauge | backend |" in told for metric in metrics)


@pytest.fixture(scope="module")
def kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("needs kubectl")
    return found


def built(kubectl: str, folder: Path) -> list[Manifest]:
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def overlays(folder: Path, *components: str) -> Path:
    """A folder for kubectl: the base with these components."""
    shutil.copytree(FOLDER, folder / "kubernetes", dirs_exist_ok=True)
    own = folder / "kubernetes/own"
    own.mkdir(exist_ok=True)
    wanted = {"resources": ["../base"], "components": [f"../{name}" for name in components]}
    (own / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
    return own


def environment(manifests: list[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            yield from manifest["spec"]["template"]["spec"]["containers"][0]["env"]


def test_the_example_has_everything(kubectl: str) -> None:
    manifests = built(kubectl, FOLDER / "example")

    for manifest in manifests:
        require_valid(manifest)
    found = {name_of(manifest): manifest for manifest in manifests}
    sd = found["Deployment-worker-sd"]["spec"]["template"]["spec"]
    assert sd["containers"][0]["image"] == "registry.example.com/imagegen-worker:cuda"
    assert sd["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "replicas" not in found["Deployment-worker-sd"]["spec"]
    assert found["Deployment-api"]["spec"]["template"]["spec"]["containers"][0]["image"].endswith("/imagegen-api:0.1.0")
    assert "PersistentVolumeClaim-outputs" not in found
    assert "Deployment-worker-flux-local" in found
    assert "AWS_SECRET_ACCESS_KEY" in {entry["name"] for entry in environment(manifests)}
    (settings,) = (each["data"] for name, each in found.items() if name.startswith("ConfigMap-settings"))
    assert settings["SD_SHUTDOWN_GRACE_SECONDS"] == "300"
    assert settings["SD_OUTPUT_URL"].startswith("s3://")
    assert {manifest["metadata"].get("namespace", "imagegen") for manifest in manifests} == {"imagegen"}


@pytest.mark.parametrize("components", [(), *((name,) for name in COMPONENTS), COMPONENTS])
def test_every_component_goes_with_the_base(kubectl: str, tmp_path: Path, components: tuple[str, ...]) -> None:
    manifests = built(kubectl, overlays(tmp_path, *components))

    for manifest in manifests:
        require_valid(manifest)
    if "other-redis" in components:
        assert not [name for name in map(name_of, manifests) if name.endswith("-redis")]
        urls = [entry for entry in environment(manifests) if entry["name"] == "SD_REDIS_URL"]
        assert {url["valueFrom"]["secretKeyRef"]["key"] for url in urls} == {"SD_REDIS_URL"}
        assert "REDIS_PASSWORD" not in {entry["name"] for entry in environment(manifests)}
