"""What the page is made of, without a browser."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests

from api.edge.public_paths import STUDIO_FILES, STUDIO_FOLDER, STUDIO_PATH
from tests.api.clients import Client
from tests.api.problem import assert_problem
from tests.stack import Api, Stack

MOST_BYTES, MOST_LINES, LONGEST_FUNCTION = 120_000, 3000, 40
OWN = [
    path for path in STUDIO_FOLDER.rglob("*") if path.suffix in (".js", ".css", ".html") and "vendor" not in path.parts
]
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def page(api: Api) -> requests.Response:
    return api.get("/", headers=BROWSER)


def test_browsers_get_the_page_and_programs_get_links(api: Api) -> None:
    links = api.get("/").json()["links"]

    assert page(api).headers["content-type"] == "text/html; charset=utf-8"
    assert links["docs"] == f"{api.url}/docs"
    assert all(requests.get(link, timeout=10).status_code == 200 for link in links.values())


def test_the_page_allows_nothing_but_its_own_files(api: Api) -> None:
    policy = page(api).headers["content-security-policy"]

    assert "unsafe" not in policy
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"
    assert directives["require-trusted-types-for"] == "'script'"
    assert re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", page(api).text) is None


def test_the_page_reaches_images_in_a_bucket(null_api_with_bucket: Api) -> None:
    policy = page(null_api_with_bucket).headers["content-security-policy"]

    assert "img-src 'self' blob: data: https://s3.example.com;" in policy


@pytest.fixture
def null_api_with_bucket(stack: Stack) -> Api:
    return stack.start_api(SD_BACKENDS="null", SD_OUTPUT_PUBLIC_URL="https://s3.example.com/bucket")


def addresses(api: Api) -> Iterator[str]:
    """Every file that the page loads at first."""
    yield from {urljoin(f"{api.url}/", link) for link in re.findall(r'(?:href|src)="([^"]+)"', page(api).text)}


def test_the_page_is_small_over_the_wire(api: Api) -> None:
    loaded = [requests.get(address, timeout=10, stream=True) for address in addresses(api)]

    sizes = [len(answer.raw.read(decode_content=False)) + len(str(answer.headers)) for answer in loaded]
    assert {answer.status_code for answer in loaded} == {200}
    assert len(sizes) > 30
    assert sum(sizes) + len(page(api).content) < MOST_BYTES


@pytest.mark.parametrize("name", STUDIO_FILES)
def test_every_file_is_served_as_it_is_and_not_sent_twice(api: Api, name: str) -> None:
    answer = api.get(f"{STUDIO_PATH}/{name}")

    again = api.get(f"{STUDIO_PATH}/{name}", headers={"If-None-Match": answer.headers["etag"]})
    plain = requests.get(f"{api.url}{STUDIO_PATH}/{name}", headers={"Accept-Encoding": "identity"}, timeout=10)
    assert answer.content == plain.content == (STUDIO_FOLDER / name).read_bytes()
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"].startswith(STUDIO_FILES[name])
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["", "index.html", "vendor/vendor.toml", "nothing.js", "../page.py", "vendor/LICENSE"])
def test_other_files_are_not_served(api: Api, name: str) -> None:
    assert_problem(api.get(f"{STUDIO_PATH}/{name}"), 404, "not-found")


def test_the_page_needs_no_key(stranger: Client) -> None:
    assert 'data-needs-key="yes"' in stranger.get("/", headers=BROWSER).text
    assert stranger.get(f"{STUDIO_PATH}/app.js").status_code == 200


def test_the_source_is_short() -> None:
    lines = {path: path.read_text().splitlines() for path in OWN}

    assert sum(map(len, lines.values())) <= MOST_LINES
    assert [path.name for path, text in lines.items() if len(text) > 300] == []


@pytest.mark.parametrize("path", [path for path in OWN if path.suffix == ".js"], ids=lambda path: path.name)
def test_no_function_is_long(path: Path) -> None:
    lengths = dict(functions(path.read_text()))

    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Functions and methods of a module with their number of lines."""
    lines = source.splitlines()
    for start, line in enumerate(lines):
        found = re.match(r"( *)(?:export )?(?:async )?(?:function )?(\w+)\(.*\) \{$", line)
        if found and found[2] not in ("if", "for", "while", "switch", "catch"):
            end = next(
                at for at, text in enumerate(lines[start:], start) if text in (f"{found[1]}}}", f"{found[1]}}},")
            )
            yield found[2], end - start + 1


def test_every_view_imports_only_files_of_its_own() -> None:
    """As browsers load them: by relative addresses, from files that exist."""
    for path in OWN:
        for name in re.findall(r'from "([^"]+)"', path.read_text()):
            assert name.startswith("."), f"{path.name} imports {name}"
            assert (path.parent / name).resolve().is_relative_to(STUDIO_FOLDER)
            assert (path.parent / name).exists(), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_page_names_another_host(path: Path) -> None:
    hosts = re.findall(r"https?://([\w.-]+)", path.read_text())

    assert hosts == []
