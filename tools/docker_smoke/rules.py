"""What holds of every container while it runs."""

import http.client

from tools.docker_smoke.checks import check, inspect, run, until
from tools.docker_smoke.stack import CANARY, Stack, call

SERVICES = ("stable-diffusion", "worker-sd", "worker-flux-api", "housekeeper", "flower", "redis")
WRITABLE = {"/app/outputs", "/app/models", "/data", "/settings", "/tmp"}  # noqa: S108 - places in containers
#: What every container has in memory and no program of ours uses.
OF_THE_ENGINE = ("/dev", "/proc", "/sys", "/etc/")


def refusals() -> None:
    settings = ("-e", "SD_PUBLISHED_ON=0.0.0.0", "-e", "SD_REDIS_URL=redis://nowhere")
    said = run("docker", "run", "--rm", *settings, "imagegen-api", fails=True)
    check("SD_API_KEY is empty" in said, "open to the network, the API does not start without a key")


def hardened(stack: Stack) -> None:
    for container in (one for service in SERVICES for one in stack.containers(service)):
        name = inspect(container, ".Name").strip("/")
        shell = ("docker", "exec", container, "sh", "-c")
        check(run(*shell, "id -u") != "0", f"{name} does not run as root")
        status = run(*shell, "cat /proc/1/status /proc/self/status")
        check(status.count("CapEff:\t0000000000000000") == 2, f"{name} has no capability")
        check("NoNewPrivs:\t1" in status, f"{name} can gain no privilege")
        run(*shell, "touch /anywhere", fails=True)
        writable = writable_places(run(*shell, "cat /proc/mounts"))
        check(writable <= WRITABLE, f"{name} has a read-only root", f"writable: {' '.join(sorted(writable))}")
        until(f"{name} is healthy", lambda one=container: inspect(one, ".State.Health.Status") == "healthy" or None)  # type: ignore[misc]
        check(True, f"{name} is healthy")


def commands(stack: Stack) -> None:
    check("ready" in stack.compose("run", "--rm", "imagegen", "status", "--once"), "imagegen status, in a container")
    said = stack.compose("exec", "-T", "housekeeper", "imagegen", "prune", "--older-than", "1d", "--dry-run")
    check("Would remove 0 jobs" in said, "imagegen prune, in the housekeeper")
    check(
        "starter" in stack.compose("exec", "-T", "worker-sd", "imagegen", "models", "list"),
        "imagegen models, in a worker",
    )


def writable_places(mounts: str) -> set[str]:
    places = [line.split() for line in mounts.splitlines()]
    writable = {place for _, place, _, options, *_ in places if "rw" in options.split(",")}
    return {place for place in writable if not place.startswith(OF_THE_ENGINE)}


def redis_rules(stack: Stack) -> None:
    redis = stack.containers("redis")[0]
    wanted = {"appendonly": "yes", "maxmemory-policy": "noeviction", "stream-node-max-bytes": "512"}
    for setting, value in wanted.items():
        said = run("docker", "exec", redis, "valkey-cli", "config", "get", setting).splitlines()
        check(said[-1] == value, f"redis has {setting} {value}")
    most = int(run("docker", "exec", redis, "valkey-cli", "config", "get", "maxmemory").splitlines()[-1])
    check(0 < most < 0.7 * int(inspect(redis, ".HostConfig.Memory")), "redis is full before its container is", most)
    refused = run("docker", "exec", "-e", "REDISCLI_AUTH=", redis, "valkey-cli", "ping")
    check("NOAUTH" in refused, "redis wants its password")
    lines = run("docker", "exec", redis, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null; true")
    check(CANARY not in lines, "no command line shows it")
    check(inspect(redis, "json .HostConfig.PortBindings") in ("{}", "null"), "redis is published nowhere")


def metrics_rules() -> None:
    _, answer = call("GET", "/metrics")
    told = answer.decode().splitlines()
    ready = 'imagegen_workers{backend="sd",state="ready"} 2.0'
    check(ready in told, "/metrics tells of both workers of sd")
    memory = [line for line in told if line.startswith('imagegen_device_memory_used_bytes{backend="sd",device="cpu"')]
    check(len(memory) == 2, "and of the memory of their devices")
    made = 'imagegen_jobs_total{backend="sd",code="",outcome="succeeded"} 1.0'
    check(made in told, "and of the job that was made")


def flower_rules() -> None:
    connection = http.client.HTTPConnection("127.0.0.1", 5555, timeout=20)
    connection.request("GET", "/workers")
    check(connection.getresponse().status == http.client.UNAUTHORIZED, "flower wants a login")
    connection.close()
