"""Builds the images, starts the stack on a real engine, breaks it, and prints what was checked: `make smoke`.

Needs Docker, Compose (v2, or 1.29) and a free port 7860; no Python package. On a machine that has prepared base images
and must build through the host's network: `--network host --torch-index ''`.
"""

import argparse
import http.client
import sys
from pathlib import Path

from tools.docker_smoke.checks import Failed, check, run, timed
from tools.docker_smoke.faults import changes, deaths, restarts
from tools.docker_smoke.images import context, images
from tools.docker_smoke.rules import commands, flower_rules, hardened, metrics_rules, redis_rules, refusals
from tools.docker_smoke.stack import Stack, call

API = "iti-image-generation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", help="network for the steps of the builds, such as host")
    parser.add_argument("--torch-index", help="where PyTorch comes from, instead of the Dockerfile's default")
    options = parser.parse_args()
    with context() as folder:
        smoke(folder, options)


def smoke(folder: Path, options: argparse.Namespace) -> None:
    stack = Stack(folder)
    if run("docker", "ps", "-aq", "--filter", f"name=^{API}$"):
        sys.exit(f"A container {API} is there already: this needs its name and port 7860.")
    print(f"docker {run('docker', 'version', '--format', '{{.Server.Version}}')}, {stack.version}")
    try:
        images(folder, options)
        refusals()
        start(stack)
        hardened(stack)
        commands(stack)
        redis_rules(stack)
        flower_rules()
        metrics_rules()
        changes(stack)
        restarts(stack, deaths(stack))
    except Failed as failed:
        print(f"\n{failed}\n\n{stack.compose('logs', '--tail', '15')}")
        sys.exit(1)
    finally:
        stack.compose("down", "--volumes")
    print("All of it holds; nothing is left running.")


def start(stack: Stack) -> None:
    check(not (stack.folder / ".env").exists(), "a fresh clone, which only its owner may read, without a .env")
    spent = timed(lambda: stack.compose("up", "-d", "stable-diffusion", profiles=("--profile", "sd")))
    check(True, "one command starts the API and all that it needs", f"{spent:.1f} s")
    spent = timed(lambda: stack.serves(1))
    check(True, "the worker has its model", f"after {spent:.1f} s more")
    body = {"prompt": "a red heart on a blue background", "num_inference_steps": 4}
    status, image = call("POST", "/api/txt2img", body, accept="image/png")
    check(
        status == http.client.OK and image[:4] == b"\x89PNG",
        "an image comes out of port 7860",
        f"{len(image)} bytes",
    )
    check(not (stack.folder / ".env").exists(), "no .env was made, neither a file nor a folder")
    stack.configure()
    spent = timed(lambda: stack.up("stable-diffusion", "flower", "worker-flux-api", workers=2))
    stack.serves(2)
    check(True, "--scale worker-sd=2 starts another worker, under a name of its own", f"{spent:.1f} s")


if __name__ == "__main__":
    main()
