"""A complete installation with canaries as secrets, used in every way, and everything that it outputs."""

import base64
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import redis
import requests

from tests.api.images import encoded, scene
from tests.api.wire import send_raw
from tests.shared.webhooks.receiver import Receiver, answer, receiving
from tests.stack import Stack, free_port, valkey_server
from tests.support.polling import wait_until
from tests.worker.engines.bfl.provider import Provider, Reply, provider, refused, state

#: Secrets of the operator, which no output contains.
SECRETS = {
    "SD_API_KEY": "canary-of-a-key-0123456789",
    "SD_WEBHOOK_SECRET": base64.b64encode(b"canary-of-the-webhooks-secret").decode(),
    "SD_WEBHOOK_HEADER": "canary-of-the-webhooks-header",
    "SD_BFL_API_KEY": "canary-of-the-clouds-key",
    "SD_LINK_SECRET": "canary-of-the-links-secret",
    "SD_HUGGINGFACE_TOKEN": "hf_canaryofthehub",
    "SD_FLOWER_BASIC_AUTH": "canary-of-the-dashboard",
    "redis": "canary-of-redis",
}
#: Data of a caller, which is stored with the job and shown to nobody else.
PRIVATE = {
    "prompt": "canary prompt with a secret in it",
    "negative_prompt": "canary negative prompt",
    "metadata": "canary-of-the-metadata",
    "webhook_url": "canary-in-the-webhooks-address",
    "image": "canary-in-the-images-address",
    "wrong key": "canary-of-a-wrong-key-0123456789",
    "signature": "canary-of-a-signature",
    "path": "canary-of-a-path",
}
WORDS = {name: PRIVATE[name] for name in ("prompt", "negative_prompt")}
FLOWER_PAGES = ("/", "/workers", "/tasks", "/broker", "/api/workers?refresh=1", "/api/tasks", "/api/queues/length")


class Whole:
    """One started service: an API, workers without a model and of the cloud, a housekeeper, a dashboard."""

    def __init__(self, stack: Stack, port: int, hooks: Receiver, cloud: Provider) -> None:
        self.stack, self.hooks, self.cloud = stack, hooks, cloud
        self.redis = redis.Redis.from_url(stack.settings["SD_REDIS_URL"])
        self.published: list[bytes] = []
        self.refusals: list[requests.Response] = []
        self._flower_port = port
        self.flower = stack.run([sys.executable, "-m", "compose.launcher.flower"], SD_FLOWER_PORT=str(port))
        workers = [stack.start_worker(backend, ready=False) for backend in ("null", "flux-api")]
        stack.start_housekeeper()
        stack.start_api()
        self.flower.wait_for("Visit me at")
        for worker in workers:
            worker.wait_for("ready.")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record everything that is published in Redis: events of jobs, of webhooks, and of Celery."""
        with self.redis.pubsub() as heard:
            heard.psubscribe("*")
            thread = threading.Thread(target=self._listen, args=(heard,), daemon=True)
            thread.start()
            yield
            # Workers publish the events of several tasks together, shortly after the jobs.
            wait_until(lambda: any(b"task.multi" in message for message in self.published))
            heard.punsubscribe()
            thread.join()

    def _listen(self, heard: Any) -> None:
        for message in heard.listen():
            if message["type"] == "punsubscribe":
                return
            self.published.append(message["channel"] + b" " + str(message["data"]).encode())

    def ask(self, method: str, path: str, *, key: str = SECRETS["SD_API_KEY"], **kwargs: Any) -> requests.Response:
        headers = {"X-API-Key": key, **kwargs.pop("headers", {})}
        response = requests.request(method, self.stack.api.url + path, headers=headers, timeout=30, **kwargs)
        if response.status_code >= 400:
            self.refusals.append(response)
        return response

    def make(self, path: str = "/api/txt2img", **fields: Any) -> requests.Response:
        metadata = {"mine": PRIVATE["metadata"], "simulate": fields.pop("simulate", {})}
        return self.ask("POST", path, json={**WORDS, "metadata": metadata, **fields})

    @property
    def logs(self) -> dict[str, str]:
        processes = [self.stack.api.process, *self.stack.workers, self.flower]
        return {str(number): process.output for number, process in enumerate(processes)}

    def pages(self) -> dict[str, str]:
        """The pages of the dashboard, and the metrics."""
        pages = {"/metrics": self.ask("GET", "/metrics").text}
        for path in FLOWER_PAGES:
            url = f"http://127.0.0.1:{self._flower_port}{path}"
            answer = requests.get(url, auth=("user", SECRETS["SD_FLOWER_BASIC_AUTH"]), timeout=30)
            assert answer.status_code == 200, path
            pages[f"flower {path}"] = answer.text
        return pages

    def redis_keys(self) -> dict[str, str]:
        """Every key in Redis with its value."""
        return {key.decode(): str(self._value(key)) for key in self.redis.scan_iter()}

    def _value(self, key: bytes) -> object:
        match self.redis.type(key):
            case b"hash":
                return self.redis.hgetall(key)
            case b"list":
                return self.redis.lrange(key, 0, -1)
            case b"set":
                return self.redis.smembers(key)
            case b"zset":
                return self.redis.zrange(key, 0, -1)
            case b"stream":
                return self.redis.xrange(key)
            case _:
                return self.redis.get(key)

    def command_lines(self) -> str:
        """The command lines, which every user of the machine can see."""
        lines = []
        for process in self.stack.all_processes():
            with suppress(psutil.NoSuchProcess):
                lines.append(" ".join(process.cmdline()))
        return "\n".join(lines)


@contextmanager
def started(folder: Path) -> Iterator[Whole]:
    with ExitStack() as stack:
        port, password = free_port(), SECRETS["redis"]
        stack.enter_context(valkey_server(folder, "--port", str(port), "--requirepass", password))
        hooks, cloud = stack.enter_context(receiving()), stack.enter_context(provider())
        settings = {
            "SD_BACKENDS": "null,flux-api,sd",
            "SD_API_KEY": SECRETS["SD_API_KEY"],
            "SD_WEBHOOK_SECRET": f"whsec_{SECRETS['SD_WEBHOOK_SECRET']}",
            "SD_WEBHOOK_HEADER": f"X-Hook: {SECRETS['SD_WEBHOOK_HEADER']}",
            "SD_WEBHOOK_ALLOW": hooks.origin,
            "SD_BFL_API_KEY": SECRETS["SD_BFL_API_KEY"],
            "SD_BFL_BASE_URL": cloud.api_url,
            "SD_LINK_SECRET": SECRETS["SD_LINK_SECRET"],
            "SD_HUGGINGFACE_TOKEN": SECRETS["SD_HUGGINGFACE_TOKEN"],
            "SD_ACCESS_LOG": "true",
            "SD_FLOWER_BASIC_AUTH": f"user:{SECRETS['SD_FLOWER_BASIC_AUTH']}",
        }
        installation = Stack(f"redis://:{password}@127.0.0.1:{port}/0", folder, **settings)
        yield Whole(stack.enter_context(installation), free_port(), hooks, cloud)


def use(whole: Whole) -> None:
    """Do everything that makes a process output something, with canaries wherever a caller can put one."""
    with whole.listening():
        _jobs(whole)
        _images(whole)
        _cloud(whole)
        _webhooks(whole)
        _other_protocols(whole)
        _mistakes(whole)


def _jobs(whole: Whole) -> None:
    job = whole.make(backend="null", response_format="b64_json").json()
    assert job["state"] == "succeeded"
    for path in (job["links"]["self"], job["links"]["events"], "/api/jobs", "/api/backends", "/health", "/info"):
        assert whole.ask("GET", path).status_code == 200
    for simulate in ({"fail": "out-of-memory"}, {"fail": "internal-error"}, {"wrong": PRIVATE["metadata"]}):
        assert whole.make(backend="null", simulate=simulate).status_code >= 500
    fatal = whole.make("/api/jobs", backend="null", simulate={"die": True}).json()
    whole.stack.worker.wait_for("SIGKILL")
    assert whole.ask("DELETE", fatal["links"]["self"]).status_code == 200
    # No worker serves it, so its wake-up stays.
    assert whole.make("/api/jobs", backend="sd").status_code == 202


def _images(whole: Whole) -> None:
    files = {"image": (PRIVATE["path"], encoded(scene()), "image/png")}
    assert whole.ask("POST", "/api/img2img", data={**WORDS, "backend": "null"}, files=files).status_code == 200
    files = {"image": (PRIVATE["path"], encoded(scene())[:60], "image/png")}
    assert whole.ask("POST", "/api/img2img", data={**WORDS, "backend": "null"}, files=files).status_code == 422
    addresses = [f"{whole.hooks.origin}/x?token={PRIVATE['image']}", f"http://127.0.0.1:1/?t={PRIVATE['image']}"]
    for address in (*addresses, f"https://no-such-name.invalid/{PRIVATE['image']}", f"ftp://{PRIVATE['image']}"):
        assert whole.make(backend="null", image=address).status_code == 422


def _cloud(whole: Whole) -> None:
    echo = {"prompt": PRIVATE["prompt"], "key": SECRETS["SD_BFL_API_KEY"], "loc": [PRIVATE["metadata"]]}
    whole.cloud.submits = [whole.cloud.accept, refused(422, echo), refused(403, echo), refused(402, echo)]
    whole.cloud.submits += [Reply(400, raw=json.dumps(echo).encode()), whole.cloud.accept]
    codes = [whole.make(backend="flux-api").status_code for _ in range(5)]
    assert codes[0] == 200
    assert min(codes[1:]) >= 400
    whole.cloud.polls = [state("Request Moderated", details=echo)]
    assert whole.make(backend="flux-api").status_code == 422


def _webhooks(whole: Whole) -> None:
    address = f"{whole.hooks.origin}/hooks?token={PRIVATE['webhook_url']}"
    for status in (204, 500, 301, 410):
        whole.hooks.behave = answer(status, Location=f"http://127.0.0.1:1/{PRIVATE['webhook_url']}")
        job = whole.make(backend="null", webhook_url=address).json()
        whole.hooks.next()
        wait_until(partial(_was_sent, whole, job))
    assert whole.make(webhook_url=f"http://127.0.0.1:9/?{PRIVATE['webhook_url']}").status_code == 422
    assert len(whole.ask("GET", "/api/webhooks").json()["webhooks"]) == 1


def _was_sent(whole: Whole, job: dict[str, Any]) -> bool:
    return whole.ask("GET", job["links"]["self"]).json()["webhook"]["deliveries"][0]["attempts"] == 1


def _other_protocols(whole: Whole) -> None:
    metadata = {"mine": PRIVATE["metadata"]}
    body = {**WORDS, "model": "null", "metadata": metadata, "user": PRIVATE["metadata"]}
    for stream in (False, True):
        assert whole.ask("POST", "/v1/images/generations", json={**body, "stream": stream}).status_code == 200
    files = {"image": (PRIVATE["path"], encoded(scene()), "image/png")}
    assert whole.ask("POST", "/v1/images/edits", data={**WORDS, "model": "null"}, files=files).status_code == 200
    inputs = {"inputs": PRIVATE["prompt"], "parameters": {"metadata": metadata}}
    assert whole.ask("POST", "/models/null", json=inputs).status_code == 200
    for wrong in ({"size": PRIVATE["path"]}, {"model": PRIVATE["path"]}, {"image": PRIVATE["image"]}):
        assert whole.ask("POST", "/v1/images/generations", json={**body, **wrong}).status_code in (400, 404)
    assert whole.ask("POST", f"/models/{PRIVATE['path']}", json=inputs).status_code == 404
    assert whole.ask("POST", "/v1/images/generations", json=body, key=PRIVATE["wrong key"]).status_code == 401


def _mistakes(whole: Whole) -> None:
    prompt, wrong, path = PRIVATE["prompt"], PRIVATE["wrong key"], PRIVATE["path"]
    json_headers = {"content-type": "application/json"}
    for body in (f'{{"prompt": "{prompt}', f'{{"prompt": "{prompt}", "seed": "{prompt}", "{path}": "{prompt}"}}'):
        assert whole.ask("POST", "/api/jobs", data=body, headers=json_headers).status_code == 422
    assert whole.ask("POST", "/api/jobs", json=WORDS, headers={"Idempotency-Key": prompt}).status_code == 422
    assert whole.ask("POST", f"/api/jobs?key={path}", data=prompt).status_code == 415
    assert whole.ask("GET", f"/api/jobs?state={path}&cursor={path}&label={path * 10}").status_code == 422
    for method, address in (("GET", f"/{path}"), ("PUT", "/api/jobs"), ("GET", f"/api/jobs/{path}/images/{path}")):
        assert whole.ask(method, address).status_code in (404, 405, 422)
    assert whole.ask("GET", f"/api/jobs?key={SECRETS['SD_API_KEY']}", key=wrong).status_code == 401
    assert whole.ask("GET", "/api/jobs", headers={"Host": f"{path}.example.com"}).status_code == 421
    assert whole.ask("POST", "/api/jobs", headers={"Origin": f"https://{path}.example.com"}).status_code == 403
    job = whole.ask("GET", "/api/jobs?state=succeeded").json()["jobs"][0]
    altered = f"{job['links']['self']}/images/0?expires=9999999999&signature={PRIVATE['signature']}"
    assert whole.ask("GET", altered, key=wrong).status_code == 401
    assert send_raw(whole.stack.api, f"{prompt} /{path} HTTP/9\r\n{path}\r\n\r\n").startswith(b"HTTP/1.1 400")
