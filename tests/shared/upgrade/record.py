"""Record an installation for test_upgrade.py: `python -m tests.shared.upgrade.record FILE`.

Run it in a checkout of the version to record; copy it there if that version lacks it.
"""

import base64
import json
import re
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import redis
import requests

from tests.stack import Stack, free_port, valkey_server

ALICE, BOB = "alice-key-0123456789", "bob-key-9876543210ab"
SETTINGS = {
    "SD_BACKENDS": "null",
    "SD_API_KEY": f"alice:{ALICE},bob:{BOB}",
    "SD_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "SD_REUSE_PICTURES": "true",
}
TINY = {"width": 16, "height": 16, "num_inference_steps": 2}


class Receiver(BaseHTTPRequestHandler):
    """Takes webhooks at /, and answers 410 at /gone."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(410 if self.path == "/gone" else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Client:
    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers = {"X-API-Key": key}

    def submit(self, headers: dict[str, str] | None = None, seconds: float = 0, **fields: Any) -> dict[str, Any]:
        body = {"prompt": "x", **TINY, **fields}
        if seconds:
            body["metadata"] = {"simulate": {"seconds": seconds}}
        answer = requests.post(f"{self._url}/api/jobs", json=body, headers=self._headers | (headers or {}), timeout=10)
        assert answer.ok, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def read(self, job: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = requests.get(
            self._url + job["links"]["self"], headers=self._headers, timeout=10
        ).json()
        return answer

    def wait_for(self, job: dict[str, Any], *states: str) -> dict[str, Any]:
        while (seen := self.read(job))["state"] not in states:
            time.sleep(0.05)
        return seen

    def change(self, method: str, job: dict[str, Any], suffix: str = "") -> None:
        answer = requests.request(method, self._url + job["links"]["self"] + suffix, headers=self._headers, timeout=10)
        assert answer.ok, answer.text


def populate(stack: Stack, client: redis.Redis, origin: str, nobody: str) -> dict[str, str]:
    """Jobs in every state; ids of those that the test looks for, by name. Nothing listens at `nobody`."""
    worker, housekeeper, api = stack.start_worker("null"), stack.start_housekeeper(), stack.start_api()
    alice, bob = Client(api.url, ALICE), Client(api.url, BOB)
    jobs = {"done": alice.submit(label="kept", seed=1, webhook_url=origin)}
    jobs["done"] = alice.wait_for(jobs["done"], "succeeded")
    image = requests.get(jobs["done"]["images"][0]["url"], headers={"X-API-Key": ALICE}, timeout=10).content
    source = base64.b64encode(image).decode()
    alice.change("PUT", jobs["done"], "/pin")
    jobs["reused"] = alice.submit(seed=1)
    jobs["edited"] = alice.submit({"Idempotency-Key": "order-1"}, image=source, seed=2, output_format="webp")
    jobs["failed"] = bob.submit(metadata={"simulate": {"fail": "out-of-memory"}})
    jobs["dead"] = bob.submit(webhook_url=f"{origin}/gone")
    for name in ("reused", "edited", "failed", "dead"):
        (alice if name in ("reused", "edited") else bob).wait_for(jobs[name], "succeeded", "failed")
    jobs["pending"] = alice.submit(webhook_url=nobody, seed=3)
    while "pending" not in str(alice.read(jobs["pending"])["webhook"]["deliveries"]) or not client.keys("*down:*"):
        time.sleep(0.05)
    housekeeper.kill()
    jobs["running"] = alice.submit(seconds=3, seed=4, webhook_url=nobody, webhook_events=["started", "succeeded"])
    while not (alice.read(jobs["running"])["progress"] or {}).get("step"):
        time.sleep(0.05)
    worker.kill()
    jobs["cancelled"] = alice.submit(seed=5)
    alice.change("DELETE", jobs["cancelled"])
    jobs["first"] = alice.submit(seed=6, label="kept", deadline_seconds=86_400)
    jobs["second"] = alice.submit(seed=7, num_images=2)
    jobs["other"] = bob.submit(seed=8, image=source, strength=0.5, webhook_url=nobody)
    jobs["low"] = alice.submit(seed=9, priority="low")
    return {name: job["id"] for name, job in jobs.items()}


def value_of(client: redis.Redis, key: str) -> Any:
    match kind := client.type(key):
        case "string":
            return client.get(key)
        case "hash":
            return client.hgetall(key)
        case "list":
            return client.lrange(key, 0, -1)
        case "set":
            return sorted(client.smembers(key))
        case "zset":
            return client.zrange(key, 0, -1, withscores=True)
        case "stream":
            return client.xrange(key)
        case _:
            raise ValueError(f"{key} is a {kind!r}")


def main(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, valkey_server(Path(folder)) as url:
        client = redis.Redis.from_url(url, decode_responses=True)
        receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        origin, nobody = f"http://127.0.0.1:{receiver.server_port}", f"http://127.0.0.1:{free_port()}"
        settings = {**SETTINGS, "SD_WEBHOOK_ALLOW": f"{origin},{nobody}"}
        home = Path(folder) / "stack"
        home.mkdir()
        with Stack(url, home, **settings) as stack:
            jobs = populate(stack, client, origin, nobody)
            recorded_at, prefix = time.time(), stack.prefix
            keys = {
                re.sub(f"^{prefix}", "", key): [client.type(key), client.pttl(key), value_of(client, key)]
                for key in sorted(map(str, client.keys(f"{prefix}*")))
            }
            files = {
                str(file.relative_to(stack.outputs)): base64.b64encode(file.read_bytes()).decode()
                for file in sorted(stack.outputs.rglob("*"))
                if file.is_file()
            }
    content = {
        "recorded_at": recorded_at,
        "settings": settings,
        "receiver": nobody,
        "jobs": jobs,
        "files": files,
        "keys": keys,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
