"""A service with keys, and the people who hold them."""

from typing import Any

import requests

from tests.stack import Api

ALICE = "alices-key-0123456789"
ALICE_READ_ONLY = "alices-look-0123456789"
BOB = "bobs-key-0123456789"
ADMIN = "admins-key-0123456789"
PRIORITY = "hurrieds-key-0123456789"
KEYS = f"alice:{ALICE},alice:{ALICE_READ_ONLY}:read,bob:{BOB},ops:{ADMIN}:admin,hurried:{PRIORITY}:priority"

UNKNOWN_ID = "019aaf3e-6a1c-7b61-9c0e-3f1f7d1c2b4a"


class Client:
    """Somebody with a key, or without one."""

    def __init__(self, api: Api, key: str | None) -> None:
        self._api = api
        self._headers = {"X-API-Key": key} if key else {}

    def request(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        headers = {**self._headers, **kwargs.pop("headers", {})}
        return requests.request(method, self._api.url + path, headers=headers, timeout=30, **kwargs)

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return self.request("GET", path, **kwargs)

    def submit(self, **fields: Any) -> dict[str, Any]:
        answer = self.request("POST", "/api/jobs", json={"prompt": "x", **fields})
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def generate(self, **fields: Any) -> dict[str, Any]:
        """A finished job."""
        answer = self.request("POST", "/api/txt2img", json={"prompt": "x", **fields})
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def job_ids(self, **filters: str) -> list[str]:
        jobs = self.get("/api/jobs", params={"limit": "100", **filters}).json()["jobs"]
        return [job["id"] for job in jobs]
