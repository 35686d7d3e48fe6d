"""Checks the running containers: hardening, commands, Redis, dashboard, metrics."""

import http.client

from tools.docker_smoke.checks import check, inspect, run, wait_for
from tools.docker_smoke.stack import CANARY, Stack, call

SERVICES = ("stable-diffusion", "worker-sd", "worker-flux-api", "housekeeper", "flower", "redis")
WRITABLE = {"/app/data", "/app/outputs", "/app/models", "/data", "/settings", "/tmp"}  # noqa: S108 - paths in containers
#: Mounted by the engine in every container.
ENGINE_MOUNTS = ("/dev", "/proc", "/sys", "/etc/")


def check_refusals() -> None:
    settings = ("-e", "SD_PUBLISHED_ON=0.0.0.0", "-e", "SD_REDIS_URL=redis://nowhere")
    output = run("docker", "run", "--rm", *settings, "imagegen-api", fails=True)
    check("SD_API_KEY is empty" in output, "open to the network, the API does not start without a key")


def check_hardening(stack: Stack) -> None:
    for container in (name for service in SERVICES for name in stack.containers(service)):
        name = inspect(container, ".Name").strip("/")
        shell = ("docker", "exec", container, "sh", "-c")
        check(run(*shell, "id -u") != "0", f"{name} does not run as root")
        status = run(*shell, "cat /proc/1/status /proc/self/status")
        check(status.count("CapEff:\t0000000000000000") == 2, f"{name} has no capability")
        check("NoNewPrivs:\t1" in status, f"{name} can gain no privilege")
        run(*shell, "touch /anywhere", fails=True)
        writable = writable_paths(run(*shell, "cat /proc/mounts"))
        check(writable <= WRITABLE, f"{name} has a read-only root", f"writable: {' '.join(sorted(writable))}")
        wait_for(f"{name} is healthy", lambda one=container: inspect(one, ".State.Health.Status") == "healthy" or None)  # type: ignore[misc]
        check(True, f"{name} is healthy")


def check_commands(stack: Stack) -> None:
    check("ready" in stack.compose("run", "--rm", "imagegen", "status", "--once"), "imagegen status, in a container")
    output = stack.compose("exec", "-T", "housekeeper", "imagegen", "prune", "--older-than", "1d", "--dry-run")
    check("Would remove 0 jobs" in output, "imagegen prune, in the housekeeper")
    check(
        "starter" in stack.compose("exec", "-T", "worker-sd", "imagegen", "models", "list"),
        "imagegen models, in a worker",
    )


def writable_paths(mounts: str) -> set[str]:
    mounted = [line.split() for line in mounts.splitlines()]
    writable = {path for _, path, _, options, *_ in mounted if "rw" in options.split(",")}
    return {path for path in writable if not path.startswith(ENGINE_MOUNTS)}


def check_redis(stack: Stack) -> None:
    redis = stack.containers("redis")[0]
    expected = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
    expected |= {"stream-node-max-bytes": "512", "hash-max-listpack-value": "4096"}
    for setting, value in expected.items():
        output = run("docker", "exec", redis, "valkey-cli", "config", "get", setting).splitlines()
        check(output[-1] == value, f"redis has {setting} {value}")
    limit = int(run("docker", "exec", redis, "valkey-cli", "config", "get", "maxmemory").splitlines()[-1])
    check(
        0 < limit < 0.7 * int(inspect(redis, ".HostConfig.Memory")),
        "redis refuses jobs before its container is full",
        limit,
    )
    refused = run("docker", "exec", "-e", "REDISCLI_AUTH=", redis, "valkey-cli", "ping")
    check("NOAUTH" in refused, "redis requires its password")
    lines = run("docker", "exec", redis, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null; true")
    check(CANARY not in lines, "no command line contains the password")
    check(inspect(redis, "json .HostConfig.PortBindings") in ("{}", "null"), "redis is not published")


def check_metrics() -> None:
    _, content = call("GET", "/metrics")
    metrics = content.decode().splitlines()
    ready = 'imagegen_workers{backend="sd",state="ready"} 2.0'
    check(ready in metrics, "/metrics counts both workers of sd")
    memory = [
        line for line in metrics if line.startswith('imagegen_device_memory_used_bytes{backend="sd",device="cpu"')
    ]
    check(len(memory) == 2, "and has the memory of their devices")
    succeeded = 'imagegen_jobs_total{backend="sd",code="",outcome="succeeded"} 1.0'
    check(succeeded in metrics, "and the succeeded job")


def check_flower() -> None:
    connection = http.client.HTTPConnection("127.0.0.1", 5555, timeout=20)
    connection.request("GET", "/workers")
    check(connection.getresponse().status == http.client.UNAUTHORIZED, "flower requires its login")
    connection.close()
