"""Pages of other web sites, DNS rebinding, security headers and forwarded headers."""

import re
from base64 import b64encode
from hashlib import sha256

import pytest
import requests

from tests.api.clients import ALICE, Client
from tests.api.problem import assert_problem
from tests.api.wire import send_raw
from tests.stack import Api, Stack


def request(api: Api, host: str, method: str = "GET", path: str = "/info", **headers: str) -> requests.Response:
    return requests.request(method, api.url + path, headers={"Host": host, **headers}, json={"prompt": "x"}, timeout=10)


@pytest.fixture(scope="module")
def other_hosts(null: Stack) -> Api:
    return null.start_api(
        SD_ALLOWED_HOSTS="images.example.com,*.example.org,bücher.example",
        SD_PUBLIC_URL="https://public.example.net/sd",
    )


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:7860",
        "127.0.0.1:7860",
        "[::1]:7860",
        "192.168.1.20:7860",
        "stable-diffusion:7860",
        "host.docker.internal:7860",
        "macbook.local",
        "LOCALHOST",
        "localhost.",
        "macbook.local.:7860",
        "localhost:",
        "[fe80::1%eth0]:7860",
        "[fe80::1%25eth0]",
    ],
)
def test_hosts_that_nobody_can_register_are_accepted(api: Api, host: str) -> None:
    assert request(api, host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com",
        "evil.example.com:7860",
        "127.0.0.1.evil.example.com",
        "localhost.evil.example.com",
        "evil.example.com#localhost",
        "localhost@evil.example.com",
        "localhost/evil",
        "evil.example.com.",
        "localhost, evil.example.com",
        "localhost:port",
        "",
        "[::1",
        "x" * 400,
    ],
)
def test_other_hosts_are_refused(api: Api, host: str) -> None:
    for method, path in (("GET", "/info"), ("POST", "/api/jobs"), ("GET", "/health/live"), ("GET", "/docs")):
        assert_problem(request(api, host, method, path), 421, "misdirected-request")


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: evil.example.com\r\n"])
def test_a_missing_or_second_host_header_is_refused(api: Api, hosts: str) -> None:
    answer = send_raw(api, f"GET /info HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")

    assert answer.startswith((b"HTTP/1.1 421", b"HTTP/1.1 400"))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("images.example.com", 200),
        ("IMAGES.example.com:443", 200),
        ("images.example.com.", 200),
        ("a.example.org.:443", 200),
        ("xn--bcher-kva.example", 200),
        ("a.example.org", 200),
        ("a.b.example.org", 200),
        ("public.example.net", 200),
        ("127.0.0.1", 200),
        ("example.org", 421),
        ("notexample.org", 421),
        ("other.example.com", 421),
        ("192.168.1.20", 421),
        ("stable-diffusion", 421),
    ],
)
def test_configured_hosts_replace_the_default_ones(other_hosts: Api, host: str, status: int) -> None:
    assert request(other_hosts, host).status_code == status


@pytest.fixture(scope="module")
def any_host(null: Stack) -> Api:
    """Accepts any host, and trusts a proxy elsewhere."""
    return null.start_api(SD_ALLOWED_HOSTS="*", SD_TRUSTED_PROXIES="192.0.2.0/24")


def test_a_wildcard_accepts_any_host(any_host: Api) -> None:
    assert request(any_host, "evil.example.com").status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "http://localhost:9999", "http://[", "x"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/jobs"), ("DELETE", "/api/jobs/x"), ("PUT", "/api/jobs/x/pin")]
)
def test_a_page_of_another_site_can_change_nothing(api: Api, origin: str, method: str, path: str) -> None:
    assert_problem(request(api, "localhost:7860", method, path, Origin=origin), 403, "forbidden")


def test_pages_of_the_service_itself_can_use_it(api: Api, other_hosts: Api) -> None:
    same_origin = request(api, "localhost:7860", "POST", "/api/jobs", Origin="http://localhost:7860")
    behind_a_proxy = request(other_hosts, "127.0.0.1", "POST", "/api/jobs", Origin="https://public.example.net")

    assert (same_origin.status_code, behind_a_proxy.status_code) == (202, 202)


def test_cors_is_off_by_default(api: Api) -> None:
    preflight_headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    preflight = request(api, "localhost", "OPTIONS", "/api/jobs", Origin="https://app.example.com", **preflight_headers)
    read = request(api, "localhost", Origin="https://app.example.com")

    for answer in (preflight, read):
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


#: Of the package openai for JavaScript; those of Hugging Face, MCP and others have more of their own.
OPENAI_HEADERS = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-retry-count"


def test_cors_admits_configured_sites_only(keyed: Stack) -> None:
    api = keyed.start_api(SD_CORS_ORIGINS="https://app.example.com,http://localhost:3000")
    preflight_headers = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": OPENAI_HEADERS,
        # A page of a public site calls an address at home.
        "Access-Control-Request-Private-Network": "true",
    }

    def preflight(origin: str) -> requests.Response:
        return request(api, "localhost", "OPTIONS", "/api/jobs", Origin=origin, **preflight_headers)

    for origin in ("https://app.example.com", "http://localhost:3000"):
        assert preflight(origin).status_code == 200
        assert preflight(origin).headers["access-control-allow-origin"] == origin
        assert preflight(origin).headers["access-control-allow-headers"] == OPENAI_HEADERS
    posted = request(api, "localhost", "POST", "/api/jobs", Origin="https://app.example.com", **{"X-API-Key": ALICE})
    unknown = request(api, "localhost", "GET", "/api/jobs", Origin="https://app.example.com")
    evil = preflight("https://evil.example.com")

    assert (posted.status_code, unknown.status_code, evil.status_code) == (202, 401, 400)
    assert posted.headers["access-control-allow-origin"] == "https://app.example.com"
    assert posted.headers["access-control-expose-headers"] == "*"
    assert unknown.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "access-control-allow-origin" not in evil.headers
    assert "access-control-allow-credentials" not in posted.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/info"),
        ("GET", "/docs"),
        ("GET", "/api/jobs"),
        ("GET", "/nothing"),
        ("POST", "/api/jobs"),
        ("DELETE", "/api/jobs/x"),
        ("OPTIONS", "/api/jobs"),
    ],
)
def test_every_answer_has_security_headers(keyed: Stack, method: str, path: str) -> None:
    for key in (ALICE, None):
        headers = Client(keyed.api, key).request(method, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_docs_page_can_run_only_its_own_scripts(api: Api) -> None:
    page = api.get("/docs")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))

    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in policy["script-src"]
    assert policy["img-src"] == "'self' data: blob:", "an answer that is an image is shown from a blob:"
    assert "unsafe" not in page.headers["content-security-policy"]
    assert not re.search(r"\w+://|(?<![\w'])//", page.text + page.headers["content-security-policy"]), "another host"


def test_the_files_of_the_docs_page_are_public(keyed: Stack) -> None:
    page = requests.get(f"{keyed.api.url}/docs", timeout=10).text
    paths = re.findall(r'(?:src|href)="(/[^"]+)"', page)

    media_types = [requests.get(f"{keyed.api.url}{path}", timeout=10).headers["content-type"] for path in paths]

    assert [media_type.partition(";")[0] for media_type in media_types] == ["text/css", "text/javascript"]
    for name in ("vendor.toml", "LICENSE", "..%2fdocs.py", "%2e%2e/docs.py"):
        for headers, status in (({}, 401), ({"X-API-Key": ALICE}, 404)):
            answer = requests.get(f"{keyed.api.url}/docs/{name}", headers=headers, timeout=10)
            assert answer.status_code == status


FORWARDED = {"X-Forwarded-For": "192.0.2.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "localhost"}


def test_forwarded_headers_of_untrusted_peers_are_ignored(api: Api, any_host: Api) -> None:
    for stranger in (api, any_host):
        headers = {**FORWARDED, "X-Forwarded-Prefix": "/evil"}
        links = request(stranger, "127.0.0.1:7860", **headers).json()["links"]

        assert links["docs"] == "http://127.0.0.1:7860/docs"


def test_forwarded_headers_of_trusted_proxies_are_used(null: Stack) -> None:
    api = null.start_api(SD_TRUSTED_PROXIES="10.0.0.0/8,127.0.0.0/8")

    def docs(host: str, scheme: str = "https") -> str:
        headers = {**FORWARDED, "X-Forwarded-Host": host, "X-Forwarded-Proto": scheme}
        return str(request(api, "127.0.0.1:7860", **headers).json()["links"]["docs"])

    assert docs("localhost") == "https://localhost/docs"
    # Proxies append to the lists, so the client may have sent all but the last entry.
    assert docs("localhost", "http, HTTPS") == "https://localhost/docs"
    assert docs("localhost", "https, javascript") == "http://localhost/docs"
    assert docs("evil.example.com, stable-diffusion:7860") == "https://stable-diffusion:7860/docs"
    refused = request(api, "127.0.0.1:7860", **{**FORWARDED, "X-Forwarded-Host": "evil.example.com"})
    assert_problem(refused, 421, "misdirected-request")
