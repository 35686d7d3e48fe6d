"""`make smoke`: builds the images, starts the stack on a real engine, breaks it, and prints each check.

Needs Docker, Compose (v2, or 1.29) and a free port 7860, but no Python package. On a machine with prepared base images
that must build through the host's network: `--network host --torch-index ''`.
"""

import argparse
import http.client
import sys
from pathlib import Path

from tools.docker_smoke.checks import Failed, check, run, timed
from tools.docker_smoke.faults import change_settings, kill_workers, restart_stack
from tools.docker_smoke.images import build_context, check_images
from tools.docker_smoke.rules import (
    check_commands,
    check_flower,
    check_hardening,
    check_metrics,
    check_redis,
    check_refusals,
)
from tools.docker_smoke.stack import Stack, call

API = "iti-image-generation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", help="network of the builds, such as host")
    parser.add_argument("--torch-index", help="index for PyTorch instead of the Dockerfile's default")
    options = parser.parse_args()
    with build_context() as folder:
        smoke(folder, options)


def smoke(folder: Path, options: argparse.Namespace) -> None:
    stack = Stack(folder)
    if run("docker", "ps", "-aq", "--filter", f"name=^{API}$"):
        sys.exit(f"A container {API} exists already: remove it, because this needs its name and port 7860.")
    print(f"docker {run('docker', 'version', '--format', '{{.Server.Version}}')}, {stack.version}")
    try:
        check_images(folder, options)
        check_refusals()
        start(stack)
        check_hardening(stack)
        check_commands(stack)
        check_redis(stack)
        check_flower()
        check_metrics()
        change_settings(stack)
        restart_stack(stack, kill_workers(stack))
    except Failed as failed:
        print(f"\n{failed}\n\n{stack.compose('logs', '--tail', '15')}")
        sys.exit(1)
    finally:
        stack.compose("down", "--volumes")
    print("All checks passed; nothing is left running.")


def start(stack: Stack) -> None:
    check(not (stack.folder / ".env").exists(), "a fresh clone, readable by its owner only, has no .env")
    seconds = timed(lambda: stack.compose("up", "-d", "stable-diffusion", profiles=("--profile", "sd")))
    check(True, "one command starts the API and all services that it needs", f"{seconds:.1f} s")
    seconds = timed(lambda: stack.wait_for_workers(1))
    check(True, "the worker has loaded its model", f"after {seconds:.1f} s more")
    body = {"prompt": "a red heart on a blue background", "num_inference_steps": 4}
    status, image = call("POST", "/api/txt2img", body, accept="image/png")
    check(
        status == http.client.OK and image[:4] == b"\x89PNG",
        "port 7860 returns an image",
        f"{len(image)} bytes",
    )
    check(not (stack.folder / ".env").exists(), "no .env was created, neither a file nor a folder")
    stack.configure()
    seconds = timed(lambda: stack.up("stable-diffusion", "flower", "worker-flux-api", workers=2))
    stack.wait_for_workers(2)
    check(True, "--scale worker-sd=2 starts another worker with another name", f"{seconds:.1f} s")


if __name__ == "__main__":
    main()
