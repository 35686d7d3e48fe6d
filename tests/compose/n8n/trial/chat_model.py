"""A language model that follows a script, behind the chat API of OpenAI: it calls the tools that it is offered."""

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "scripted"


@dataclass
class ChatModel:
    """Each entry of `rounds` has the arguments of the tool calls that it asks for at once."""

    rounds: Sequence[Sequence[dict[str, Any]]]
    url: str = ""
    offered: list[dict[str, Any]] = field(default_factory=list)
    """The tools of the last call."""
    results: list[str] = field(default_factory=list)
    """What the tools have answered in this conversation."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.offered = request.get("tools", [])
        messages = request["messages"]
        self.results = [_text(message["content"]) for message in messages if message["role"] == "tool"]
        answered = len(self.results)
        for arguments in self.rounds:
            if answered == 0:
                (tool,) = self.offered
                calls = [self._call(tool["function"]["name"], each) for each in arguments]
                return {"role": "assistant", "content": None, "tool_calls": calls}
            answered -= len(arguments)
        return {"role": "assistant", "content": "\n".join(self.results)}

    def _call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        function = {"name": name, "arguments": json.dumps(arguments)}
        return {"id": f"call_{next(self._numbers)}", "type": "function", "function": function}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@contextmanager
def chat_model(*rounds: Sequence[dict[str, Any]]) -> Iterator[ChatModel]:
    model = ChatModel(rounds)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"object": "list", "data": [{"id": NAME, "object": "model"}]})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            message = model.answer(request)
            reason = "tool_calls" if "tool_calls" in message else "stop"
            choice = {"index": 0, "message": message, "finish_reason": reason}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            completion = {"id": "chat-1", "object": "chat.completion", "created": 1, "model": NAME}
            self._send({**completion, "choices": [choice], "usage": usage})

        def _send(self, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    model.url = f"http://localhost:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
