"""Where nobody gets us to connect to."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ForbiddenUrl, OutboundError
from shared.net.address_policy import refusal_reason
from shared.net.outbound import OutboundClient
from shared.net.url import Url
from tests.shared.outbound.conftest import Names
from tests.shared.outbound.hostile import LEADS_TO, TOLD

CLIENT = OutboundClient()
NOWHERE = OutboundClient(resolve=Names())


@pytest.mark.parametrize("url", TOLD, ids=[f"{why}: {url[:40]!a}" for url, why in TOLD.items()])
def test_a_hostile_address_is_refused_before_anybody_is_asked(url: str, names: Names) -> None:
    with pytest.raises(ForbiddenUrl):
        CLIENT.check(url)

    with pytest.raises(ForbiddenUrl):
        OutboundClient(resolve=names).send("GET", url, timeout_seconds=1, max_bytes=1)
    assert names.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "HTTPS://Example.COM/Path?query=%20#fragment",
        "https://example.com:443/hook",
        "http://example.com:443?x",
        "https://xn--bcher-kva.example/",
        "https://a_b.example.com/",
        "https://1.1.1.1/",
        "https://[2606:4700:4700::1111]/",
        "https://[64:ff9b::1.1.1.1]/",
        "https://1password.com/",
        "https://example.com/a@b:c//d\u0041?e=[f]&g={h}|",
        "https://n8n.example.com/webhook-waiting/123?signature=a%2Fb%3D",
    ],
)
def test_a_public_address_is_none_of_these(url: str) -> None:
    CLIENT.check(url)


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("http://example.com#@127.0.0.1/", "http://example.com:80", "/"),
        ("http://example.com?@127.0.0.1/", "http://example.com:80", "/?@127.0.0.1/"),
        ("http://example.com/@127.0.0.1/", "http://example.com:80", "/@127.0.0.1/"),
        ("http://example.com/..//127.0.0.1/", "http://example.com:80", "/..//127.0.0.1/"),
        ("HTTPS://EXAMPLE.com/A#b", "https://example.com:443", "/A"),
        ("https://[2606:4700:0:0::1111]:80/", "https://[2606:4700::1111]:80", "/"),
    ],
)
def test_the_host_is_what_stands_before_the_path(url: str, origin: str, target: str) -> None:
    read = Url.parse(url)

    assert (read.origin, read.target) == (origin, target)


@pytest.mark.parametrize("address", LEADS_TO, ids=LEADS_TO.values())
def test_a_name_that_leads_inside_is_not_followed(names: Names, address: str) -> None:
    names.lead("hooks.example.com", address)

    with pytest.raises(ForbiddenUrl) as raised:
        OutboundClient(resolve=names).send("POST", "https://hooks.example.com/", timeout_seconds=5, max_bytes=1)

    assert address.partition("%")[0] not in raised.value.detail
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("addresses", ["1.1.1.1 10.0.0.1", "10.0.0.1 1.1.1.1", "1.1.1.1 2606:4700::1 fe80::1"])
def test_one_bad_address_among_good_ones_is_enough(names: Names, addresses: str) -> None:
    names.lead("hooks.example.com", addresses)

    with pytest.raises(ForbiddenUrl):
        OutboundClient(resolve=names).send("GET", "http://hooks.example.com/", timeout_seconds=5, max_bytes=1)


@pytest.mark.parametrize(
    "origin",
    [
        "http://n8n:5678",
        "http://n8n.internal:80",
        "http://localhost:5678",
        "http://example.com:8080",
        "http://127.0.0.1:5678",
        "http://10.0.0.5:8080",
        "http://172.17.0.1:5678",
        "http://192.168.1.5:5678",
        "http://100.64.0.9:5678",
        "http://198.19.249.3:5678",
        "http://[::1]:5678",
        "https://[fd00::5]:443",
    ],
)
def test_an_operator_may_vouch_for_a_private_origin(origin: str) -> None:
    OutboundClient([origin]).check(f"{origin}/webhook/1")

    with pytest.raises(ForbiddenUrl):
        OutboundClient().check(f"{origin}/webhook/1")


@pytest.mark.parametrize(
    "url",
    [
        "https://n8n:5678/",
        "http://n8n:5679/",
        "http://n8n/",
        "http://n8n.:5678/",
        "http://n8n:5678@example.com/",
        "http://x@n8n:5678/",
        "http://n8n.example.com:5678/",
        "http://example.com/http://n8n:5678",
        "http://10.0.0.6:5678/",
    ],
)
def test_what_is_next_to_it_stays_refused(names: Names, url: str) -> None:
    names.lead("example.com", "10.0.0.1")

    with pytest.raises(ForbiddenUrl):
        OutboundClient(["http://n8n:5678"], resolve=names).send("GET", url, timeout_seconds=5, max_bytes=1)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "::ffff:10.0.0.1",
    ],
)
def test_nobody_can_vouch_for_a_clouds_secrets(names: Names, address: str) -> None:
    names.lead("n8n", address)

    with pytest.raises(ForbiddenUrl):
        OutboundClient(["http://n8n:5678"], resolve=names).send(
            "GET", "http://n8n:5678/", timeout_seconds=5, max_bytes=1
        )


@given(st.ip_addresses())
def test_what_is_not_global_is_never_public(address: IPv4Address | IPv6Address) -> None:
    assert address.is_global or refusal_reason(address) is not None


@given(st.ip_addresses(v=4))
def test_an_address_behind_nat64_is_judged_as_itself(address: IPv4Address) -> None:
    assert refusal_reason(ip_address(f"64:ff9b::{address}")) == refusal_reason(address)


@given(st.text(max_size=30) | st.from_regex(r"https?://[a-z0-9.:@%\[\]\\/?#_-]{1,30}", fullmatch=True))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        url = Url.parse(text)
    except ForbiddenUrl:
        return
    # Read again from its parts, it is the same.
    assert Url.parse(url.origin + url.target) == url
    assert url.target.startswith("/")


@given(st.from_regex(r"https?://[a-z0-9._-]{1,20}(:(80|443))?[/?]?[!-~]{0,20}", fullmatch=True))
def test_no_text_makes_a_request_fail_in_another_way(text: str) -> None:
    with pytest.raises(OutboundError):
        NOWHERE.send("GET", text, timeout_seconds=1, max_bytes=1)
