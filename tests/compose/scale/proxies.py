"""The proxies of docs/scaling.md, with the configuration of the document except for addresses and paths."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.stack import free_port
from tests.support.process import Process

SCALING = Path(__file__).parents[3] / "docs/scaling.md"
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {content}
}}
"""


def _block(begin: str) -> str:
    (block,) = re.findall(rf"^```\w*\n({re.escape(begin)}.*?)^```$", SCALING.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


@contextmanager
def nginx(folder: Path, apis: Sequence[str]) -> Iterator[str]:
    """Yields its URL."""
    program, port = _program("nginx"), free_port()
    content = _with_addresses(_block("upstream imagegen"), apis).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    content = re.sub(r"ssl_certificate.*;", "", content)
    # The document terminates TLS at the proxy.
    content = content.replace("X-Forwarded-Proto $scheme", "X-Forwarded-Proto https")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, content=content))
    process = Process(
        [program, "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g", "error_log stderr notice;"], folder
    )
    with _running(process, "start worker process"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def caddy(folder: Path, apis: Sequence[str]) -> Iterator[str]:
    """Yields its URL."""
    program, port = _program("caddy"), free_port()
    content = _with_addresses(_block("images.example.com {"), apis).replace(
        "images.example.com {", f"http://:{port} {{"
    )
    (folder / "Caddyfile").write_text("{\n admin off\n}\n" + content)
    process = Process([program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")], folder)
    with _running(process, "serving initial configuration"):
        yield f"http://127.0.0.1:{port}"


def _with_addresses(content: str, apis: Sequence[str]) -> str:
    for number, url in enumerate(apis, 1):
        content = content.replace(f"api-{number}:7860", urlsplit(url).netloc)
    return content


def _program(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"needs {name}")
    return path


@contextmanager
def _running(process: Process, ready: str) -> Iterator[None]:
    try:
        process.wait_for(ready)
        yield
    finally:
        process.kill()
