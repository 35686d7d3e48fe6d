"""Sends the requests of replayed workflows to the service, and records them like the proxy of `make n8n`."""

from collections.abc import Mapping
from typing import Any

import requests

from tests.compose.n8n.trial.recorder import Exchange, exchange


class Network:
    """Sends every request to the service under test, whichever address a workflow names."""

    def __init__(self, base_url: str, api_url: str, key: str) -> None:
        self.base_url, self.api_url, self._key = base_url, api_url, key
        self.sent: list[requests.PreparedRequest] = []
        self.exchanges: list[Exchange] = []
        self.responses_to_drop = 0
        """How many responses to drop."""

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None,
        files: Mapping[str, Any],
    ) -> requests.Response:
        """Raises requests.ConnectionError."""
        assert url.startswith(self.base_url), url
        host = self.base_url.removeprefix("http://")
        all_headers = {**headers, "Host": host, "X-API-Key": self._key}
        real = self.api_url + url.removeprefix(self.base_url)
        content: dict[str, Any] = {"files": files, "data": body} if files else {"json": body}
        response = requests.request(method, real, headers=all_headers, timeout=30, **content)
        self._record(response)
        if self.responses_to_drop:
            self.responses_to_drop -= 1
            raise requests.ConnectionError("socket hang up")
        return response

    def _record(self, response: requests.Response) -> None:
        request = response.request
        self.sent.append(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = request.body or b""
        kind = response.headers.get("content-type", "")
        content = body.encode() if isinstance(body, str) else body
        url = str(request.url).removeprefix(self.api_url)
        self.exchanges.append(
            exchange(str(request.method), url, headers, content, response.status_code, (kind, response.content))
        )
