"""The manifests of Kubernetes, tested without a cluster."""

import importlib.util
import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml

from api.edge.public_paths import PUBLIC
from shared.jobs.types import Backend
from shared.settings.api import ApiSettings
from shared.settings.launcher import LauncherSettings
from shared.settings.service import PREFIX
from tests.compose.containers.manifests import (
    FOLDER,
    MANIFESTS,
    ROOT,
    WORKERS,
    WORKLOADS,
    Manifest,
    base_settings,
    container,
    name_of,
    pod,
    require_valid,
)
from tools import env_example
from tools.unpinned_images import unpinned

STACK: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
#: Services that Kubernetes replaces with its own means, or that people use.
COMPOSE_ONLY = {"stable-diffusion", "flower", "settings", "imagegen"}
#: The writable folders of the images; see their Dockerfiles.
WRITABLE = {"/app/outputs", "/app/models", "/app/data", "/tmp", "/data"}  # noqa: S108
SETTINGS = {f"{PREFIX}{field}".upper() for field in LauncherSettings.model_fields}
KNOWN = SETTINGS | {name for name, _ in env_example.BUCKETS}


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name_of)
def test_every_manifest_is_valid(manifest: Manifest) -> None:
    require_valid(manifest)


def test_the_manifests_run_all_services_of_compose_but_the_dashboard() -> None:
    images = {re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"]) for service in STACK.values()}

    assert {*WORKLOADS} == {"api", *{*STACK} - COMPOSE_ONLY}
    assert {container(name)["image"] for name in WORKLOADS} == images


def policies() -> dict[str, Manifest]:
    return {
        manifest["metadata"]["name"]: manifest["spec"] for manifest in MANIFESTS if manifest["kind"] == "NetworkPolicy"
    }


def rules_for(name: str, direction: str) -> list[Manifest]:
    """The rules of base for a pod."""
    named = {"app.kubernetes.io/name": name}
    base = set(policies()) - {"own-servers", "own-receivers"}
    return [
        rule
        for policy in (policies()[policy] for policy in base)
        if selects(policy["podSelector"], named)
        for rule in policy.get(direction, ())
    ]


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", ())
    assert all(expression["operator"] == "NotIn" for expression in expressions)
    excluded = any(labels[expression["key"]] in expression["values"] for expression in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and not excluded


def test_only_named_connections_are_allowed() -> None:
    assert policies()["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in WORKLOADS:
        allowed = [port["port"] for rule in rules_for(name, "egress") for port in rule["ports"]]
        assert sorted(allowed) == ([53, 53] if name == "redis" else [53, 53, 80, 443, 6379])
        ingress = [port["port"] for rule in rules_for(name, "ingress") for port in rule["ports"]]
        assert ingress == {"api": ["http"], "redis": ["redis"]}.get(name, [])


def test_private_networks_are_denied_by_default() -> None:
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
    spec, only = pod(name), container(name)

    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["securityContext"]["runAsUser"] == (999 if name == "redis" else 10001)
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert only["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_only_writable_folders_are_mounted_from_existing_volumes(name: str) -> None:
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
def test_the_settings_are_valid(folder: str) -> None:
    lines = (FOLDER / folder / "settings.env").read_text().split()
    fields = {name.removeprefix(PREFIX).lower(): value for name, value in (line.split("=", 1) for line in lines)}

    settings = ApiSettings(
        _env_file=None, **{name: value for name, value in fields.items() if name in ApiSettings.model_fields}
    )

    assert Backend.SD in settings.backends


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "redis"])
def test_every_pod_gets_the_address_of_redis_where_overlays_replace_it(name: str) -> None:
    env = container(name)["env"]
    first = 1 if name in WORKERS else 0

    assert [entry["name"] for entry in env][first : first + 2] == ["REDIS_PASSWORD", "SD_REDIS_URL"]
    assert env[first + 1]["value"] == "redis://:$(REDIS_PASSWORD)@redis:6379/0"
    assert container(name)["envFrom"] == [{"configMapRef": {"name": "settings"}}]


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_serves_its_backend_and_has_time_to_stop(name: str) -> None:
    grace = int(base_settings()["SD_SHUTDOWN_GRACE_SECONDS"])

    assert container(name)["env"][0] == {"name": "SD_BACKEND", "value": name.removeprefix("worker-")}
    assert pod(name)["terminationGracePeriodSeconds"] == grace + 60


@pytest.mark.parametrize("name", WORKERS)
def test_the_manifest_of_a_worker_says_which_setting_its_grace_period_follows(name: str) -> None:
    (text,) = (path.read_text() for path in FOLDER.rglob(f"{name}.yaml"))

    comment = re.search(r"((?: +#.*\n)+) +terminationGracePeriodSeconds:", text)
    assert comment
    assert "SD_SHUTDOWN_GRACE_SECONDS of settings.env + 60" in comment[1]
    overlays = [path for path in FOLDER.rglob("settings.env") if path.parent.name != "base"]
    assert not [path for path in overlays if "SD_SHUTDOWN_GRACE_SECONDS" in path.read_text()]


def test_probes_use_existing_paths_and_modules() -> None:
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


def test_services_select_pods() -> None:
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


def test_the_autoscaler_uses_documented_metrics() -> None:
    (scaler,) = (manifest for manifest in MANIFESTS if manifest["kind"] == "ScaledObject")
    (trigger,) = scaler["spec"]["triggers"]
    documented = (ROOT / "docs/monitoring.md").read_text()

    assert scaler["spec"]["scaleTargetRef"]["name"] in WORKERS
    metrics = re.findall(r"imagegen_\w+", trigger["metadata"]["query"])
    assert metrics == ["imagegen_queue_jobs", "imagegen_jobs_running"]
    assert all(f"| `{metric}` | gauge | backend |" in documented for metric in metrics)
