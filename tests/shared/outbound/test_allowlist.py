"""What the entries of SD_WEBHOOK_ALLOW cover, and where the headers of SD_WEBHOOK_HEADER go."""

import json

import pytest

from shared.errors import ForbiddenUrl
from shared.net.allowlist import AllowlistEntry, header_for, parse_receiver_headers
from shared.net.outbound import OutboundClient
from shared.net.url import Url

N8N = "http://n8n:5678"
ENTRY = f"{N8N}/webhook/images"


@pytest.mark.parametrize(
    "target",
    ["/webhook/images", "/webhook/images/", "/webhook/images/a/b", "/webhook/images?n=/../a", "/webhook/images/a%20b"],
)
def test_an_entry_covers_its_path_and_what_lies_below(target: str) -> None:
    assert AllowlistEntry.parse(ENTRY).covers(Url.parse(N8N + target))
    assert AllowlistEntry.parse(f"{ENTRY}/").covers(Url.parse(N8N + target))
    OutboundClient([ENTRY]).check(N8N + target)


@pytest.mark.parametrize(
    "url",
    [
        f"{N8N}/",
        f"{N8N}?/webhook/images",
        f"{N8N}/webhook",
        f"{N8N}/webhook/imagesque",
        f"{N8N}/webhook/images-admin",
        f"{N8N}/webhook/Images",
        f"{N8N}//webhook/images",
        f"{N8N}/webhook//images",
        f"{N8N}/webhook/images//admin",
        f"{N8N}/webhook/images/../admin",
        f"{N8N}/webhook/images/..",
        f"{N8N}/webhook/images/./a",
        f"{N8N}/webhook/images/%2e%2e/admin",
        f"{N8N}/webhook/images/.%2E/admin",
        f"{N8N}/webhook/images%2f..%2fadmin",
        f"{N8N}/webhook/images/..%2fadmin",
        f"{N8N}/webhook/images/%252e%252e/admin",
        f"{N8N}/webhook/images/%2525252e%2525252e/admin",
        f"{N8N}/webhook/images/..;/admin",
        f"{N8N}/webhook/images/..%3ba=b/admin",
        f"{N8N}/webhook/images/..%5cadmin",
        f"{N8N}/webhook/images/%00",
        f"{N8N}/webhook/images/%0d%0aa",
        f"{N8N}/webhook/images/%c0%ae%c0%ae/admin",
        f"{N8N}/%77ebhook/images",
        "http://n8n:80/webhook/images",
        "http://n8n/webhook/images",
        "https://n8n:5678/webhook/images",
        "http://n8n.evil.com:5678/webhook/images",
        "http://images:5678/webhook/images",
    ],
)
def test_an_entry_covers_nothing_else_however_it_is_written(url: str) -> None:
    assert not AllowlistEntry.parse(ENTRY).covers(Url.parse(url))
    assert header_for(Url.parse(url), parse_receiver_headers("X-Token: v", [ENTRY])) == {}
    with pytest.raises(ForbiddenUrl):
        OutboundClient([ENTRY]).check(url)


def test_whose_path_is_none_of_the_entry_is_told_so() -> None:
    with pytest.raises(ForbiddenUrl, match="below no path of its host that this service may call"):
        OutboundClient([ENTRY]).check(f"{N8N}/webhook/other")


def test_the_host_and_scheme_are_the_same_in_any_case_and_the_default_port_is_the_one() -> None:
    assert AllowlistEntry.parse("https://hooks.example.com:443/a").covers(Url.parse("HTTPS://Hooks.Example.COM/a/b"))


def test_an_origin_vouches_for_all_of_it_and_its_header_goes_to_wait_nodes_alone() -> None:
    headers = parse_receiver_headers("X-Token: v", [N8N])

    OutboundClient([N8N]).check(f"{N8N}/webhook/any")
    assert header_for(Url.parse(f"{N8N}/webhook-waiting/7?signature=s"), headers) == {"X-Token": "v"}
    for target in ("/webhook/any", "/", "/webhook-waiting/../webhook/any", "/webhook-waiting-room"):
        assert header_for(Url.parse(N8N + target), headers) == {}


def test_each_entry_may_have_a_header_of_its_own_and_the_nearest_counts() -> None:
    allow = [N8N, ENTRY, f"{ENTRY}/big", "https://hooks.example.com:443/in"]
    told = {
        ENTRY: "X-Token: one",
        f"{ENTRY}/big": "X-Big: two, with: signs",
        "https://hooks.example.com:443/in": "A: b",
    }

    headers = parse_receiver_headers(json.dumps(told), allow)

    found = {
        url: header_for(Url.parse(url), headers)
        for url in (f"{ENTRY}/a", f"{ENTRY}/big/a", f"{N8N}/webhook-waiting/7", "https://hooks.example.com/in")
    }
    assert [*found.values()] == [{"X-Token": "one"}, {"X-Big": "two, with: signs"}, {}, {"A": "b"}]
    assert "one" not in repr(headers)
