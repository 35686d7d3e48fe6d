"""Pages of other web sites, names that lead here from elsewhere, and proxies that say who is behind them."""

import re
from base64 import b64encode
from hashlib import sha256

import pytest
import requests

from tests.api.clients import ALICE, Client
from tests.api.problem import assert_problem
from tests.api.wire import send_raw
from tests.stack import Api, Stack


def called(api: Api, host: str, method: str = "GET", path: str = "/info", **headers: str) -> requests.Response:
    return requests.request(method, api.url + path, headers={"Host": host, **headers}, json={"prompt": "x"}, timeout=10)


@pytest.fixture(scope="module")
def named(null: Stack) -> Api:
    return null.start_api(
        SD_ALLOWED_HOSTS="images.example.com,*.example.org", SD_PUBLIC_URL="https://public.example.net/sd"
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
    ],
)
def test_a_service_goes_by_addresses_and_names_that_nobody_can_register(api: Api, host: str) -> None:
    assert called(api, host).status_code == 200


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
def test_a_name_that_leads_here_from_elsewhere_is_refused(api: Api, host: str) -> None:
    for method, path in (("GET", "/info"), ("POST", "/api/jobs"), ("GET", "/health/live"), ("GET", "/docs")):
        assert_problem(called(api, host, method, path), 421, "misdirected-request")


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: evil.example.com\r\n"])
def test_no_host_or_two_are_refused(api: Api, hosts: str) -> None:
    answer = send_raw(api, f"GET /info HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")

    assert answer.startswith((b"HTTP/1.1 421", b"HTTP/1.1 400"))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("images.example.com", 200),
        ("IMAGES.example.com:443", 200),
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
def test_names_of_the_operators_own_are_the_only_ones(named: Api, host: str, status: int) -> None:
    assert called(named, host).status_code == status


def test_any_name_is_taken_where_the_operator_says_so(null: Stack) -> None:
    assert called(null.start_api(SD_ALLOWED_HOSTS="*"), "evil.example.com").status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "http://localhost:9999", "http://[", "x"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/jobs"), ("DELETE", "/api/jobs/x"), ("PUT", "/api/jobs/x/pin")]
)
def test_a_page_of_another_site_changes_nothing(api: Api, origin: str, method: str, path: str) -> None:
    assert_problem(called(api, "localhost:7860", method, path, Origin=origin), 403, "forbidden")


def test_the_services_own_pages_may_use_it(api: Api, named: Api) -> None:
    own = called(api, "localhost:7860", "POST", "/api/jobs", Origin="http://localhost:7860")
    behind_a_proxy = called(named, "127.0.0.1", "POST", "/api/jobs", Origin="https://public.example.net")

    assert (own.status_code, behind_a_proxy.status_code) == (202, 202)


def test_no_site_is_let_in_by_default(api: Api) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    preflight = called(api, "localhost", "OPTIONS", "/api/jobs", Origin="https://app.example.com", **asked)
    read = called(api, "localhost", Origin="https://app.example.com")

    assert preflight.status_code == 405
    for answer in (preflight, read):
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_sites_that_are_named_are_let_in_and_no_others(keyed: Stack) -> None:
    api = keyed.start_api(SD_CORS_ORIGINS="https://app.example.com,http://localhost:3000")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}

    def preflight(origin: str) -> requests.Response:
        return called(api, "localhost", "OPTIONS", "/api/jobs", Origin=origin, **asked)

    for origin in ("https://app.example.com", "http://localhost:3000"):
        assert preflight(origin).status_code == 200
        assert preflight(origin).headers["access-control-allow-origin"] == origin
    posted = called(api, "localhost", "POST", "/api/jobs", Origin="https://app.example.com", **{"X-API-Key": ALICE})
    unknown = called(api, "localhost", "GET", "/api/jobs", Origin="https://app.example.com")
    evil = preflight("https://evil.example.com")

    assert (posted.status_code, unknown.status_code, evil.status_code) == (202, 401, 400)
    assert posted.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "x-job-id" in posted.headers["access-control-expose-headers"].lower()
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
def test_every_answer_tells_browsers_what_not_to_do(keyed: Stack, method: str, path: str) -> None:
    for key in (ALICE, None):
        headers = Client(keyed.api, key).request(method, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_docs_page_may_run_what_is_in_it_and_nothing_else(api: Api) -> None:
    page = api.get("/docs")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))

    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in policy["script-src"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert not re.search(r"\w+://|(?<![\w'])//", page.text + page.headers["content-security-policy"]), "another host"


def test_the_files_of_the_docs_page_are_here_for_everybody(keyed: Stack) -> None:
    page = requests.get(f"{keyed.api.url}/docs", timeout=10).text
    paths = re.findall(r'(?:src|href)="(/[^"]+)"', page)

    kinds = [requests.get(f"{keyed.api.url}{path}", timeout=10).headers["content-type"] for path in paths]

    assert [kind.partition(";")[0] for kind in kinds] == ["text/css", "text/javascript"]
    for name in ("vendor.toml", "LICENSE", "..%2fdocs.py", "%2e%2e/docs.py"):
        for headers, status in (({}, 401), ({"X-API-Key": ALICE}, 404)):
            answer = requests.get(f"{keyed.api.url}/docs/{name}", headers=headers, timeout=10)
            assert answer.status_code == status


FORWARDED = {"X-Forwarded-For": "192.0.2.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "localhost"}


@pytest.mark.parametrize("trusted", ["", "192.0.2.0/24"])
def test_what_a_stranger_says_of_who_is_behind_it_is_not_believed(null: Stack, trusted: str) -> None:
    api = null.start_api(SD_TRUSTED_PROXIES=trusted)

    links = called(api, "127.0.0.1:7860", **FORWARDED).json()["links"]

    assert links["docs"] == "http://127.0.0.1:7860/docs"


@pytest.mark.parametrize("trusted", ["127.0.0.1", "10.0.0.0/8,127.0.0.0/8"])
def test_a_trusted_proxy_is_believed(null: Stack, trusted: str) -> None:
    api = null.start_api(SD_TRUSTED_PROXIES=trusted)

    def docs(host: str) -> str:
        return str(called(api, "127.0.0.1:7860", **{**FORWARDED, "X-Forwarded-Host": host}).json()["links"]["docs"])

    assert docs("localhost") == "https://localhost/docs"
    # A list grows at its end: what stands before was there when the request came to the proxy.
    assert docs("evil.example.com, stable-diffusion:7860") == "https://stable-diffusion:7860/docs"
    refused = called(api, "127.0.0.1:7860", **{**FORWARDED, "X-Forwarded-Host": "evil.example.com"})
    assert_problem(refused, 421, "misdirected-request")
