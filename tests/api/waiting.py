"""A caller of /api/txt2img that waits in the background."""

import socket
import threading
import uuid
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import redis
import requests

from tests.stack import Api, Stack


class WaitingCaller:
    """Once entered, `job` is running; it would take `seconds`."""

    def __init__(self, stack: Stack, api: Api, accept: str = "*/*", seconds: float = 5.0) -> None:
        self._stack = stack
        self._api = api
        self._label = str(uuid.uuid4())
        self._body = {
            "prompt": "x",
            "label": self._label,
            "num_inference_steps": 100,
            "metadata": {"simulate": {"seconds": seconds}},
        }
        self._headers = {"Accept": accept}
        self._answer: requests.Response | None = None
        self._thread = threading.Thread(target=self._ask)
        self.job: dict[str, Any] = {}

    def __enter__(self) -> Self:
        with redis.Redis.from_url(self._stack.settings["SD_REDIS_URL"], decode_responses=True) as client:
            news = client.pubsub(ignore_subscribe_messages=True)
            news.subscribe(f"{self._stack.prefix}events")
            self._thread.start()
            while not self.job:
                heard = news.get_message(timeout=10)
                if heard is not None and heard["data"].endswith("state running"):
                    self._take(heard["data"].partition(" ")[0])
            news.close()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._thread.join()

    def answer(self) -> requests.Response:
        self._thread.join()
        assert self._answer is not None
        return self._answer

    def _take(self, job_id: str) -> None:
        job = self._api.get(f"/api/jobs/{job_id}").json()
        if job["label"] == self._label:
            self.job = job

    def _ask(self) -> None:
        url = f"{self._api.url}/api/txt2img"
        self._answer = requests.post(url, json=self._body, headers=self._headers, timeout=60)


def open_waiting_call(url: str, on_disconnect: str) -> socket.socket:
    """A call of /api/txt2img that waits; closing it hangs up."""
    address = urlsplit(url)
    body = b'{"prompt": "x"}'
    head = f"POST /api/txt2img?on_disconnect={on_disconnect} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    call = socket.create_connection((str(address.hostname), int(address.port or 80)))
    call.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return call
