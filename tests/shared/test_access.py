"""SD_API_KEY: what may stand in it, and what is said of what may not."""

import pytest

from shared.access.api_keys import Scope, parse_api_keys
from shared.errors import ConfigurationError
from shared.settings.api import ApiSettings
from shared.settings.loading import load

LONG = "0123456789abcdef"
OTHER = "fedcba9876543210"


def parsed(text: str) -> list[tuple[str, str, Scope]]:
    return [(key.name, key.secret.get_secret_value(), key.scope) for key in parse_api_keys(text)]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (LONG, [("default", LONG, Scope.WRITE)]),
        (f"n8n:{LONG}", [("n8n", LONG, Scope.WRITE)]),
        (f"n8n:{LONG}:read", [("n8n", LONG, Scope.READ)]),
        (f"n8n:{LONG}:priority", [("n8n", LONG, Scope.PRIORITY)]),
        (f"a.b-c_D:{LONG}:admin", [("a.b-c_D", LONG, Scope.ADMIN)]),
        (f" n8n:{LONG} , dify:{OTHER},", [("n8n", LONG, Scope.WRITE), ("dify", OTHER, Scope.WRITE)]),
        (f"n8n:{LONG},n8n:{OTHER}:read", [("n8n", LONG, Scope.WRITE), ("n8n", OTHER, Scope.READ)]),
        (f"{LONG},n8n:{OTHER}", [("default", LONG, Scope.WRITE), ("n8n", OTHER, Scope.WRITE)]),
    ],
)
def test_keys_are_read_as_they_are_written(text: str, keys: list[tuple[str, str, Scope]]) -> None:
    assert parsed(text) == keys


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("5ecret", "key 1 is too easy to guess"),
        ("5ecret:admin", "key 1 is too easy to guess"),
        (f"{LONG},b:5ecret", "key 2 is too easy to guess"),
        ("5" * 40, "key 1 is too easy to guess"),
        (f":{LONG}", "the name of key 1"),
        (f"5ecret/x:{LONG}", "the name of key 1"),
        (f"{'5ecret' * 6}:{LONG}", "the name of key 1"),
        (f"*:{LONG}", "the name of key 1"),
        (f"a:{LONG}:5ecret", "the scope of key 1"),
        (f"a:{LONG}:", "the scope of key 1"),
        (f"a:{LONG}:read:5ecret", "key 1 is not of the form"),
        (f"a:5ecret {LONG}", "visible ASCII"),
        (f"a:5ecret-é-{LONG}", "visible ASCII"),
        (f"a:{LONG * 17}", "visible ASCII"),
        (f"{LONG},{OTHER}", "the same name and scope"),
        (f"a:{LONG},a:{OTHER}", "the same name and scope"),
        (f"a:{LONG},b:{LONG}", "the same key is there twice"),
    ],
)
def test_what_is_wrong_with_a_key_is_one_sentence_without_it(
    monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    monkeypatch.setenv("SD_API_KEY", text)

    with pytest.raises(ConfigurationError) as raised:
        load(ApiSettings)

    sentence = raised.value.detail
    assert sentence.startswith("SD_API_KEY is wrong: ")
    assert told in sentence
    assert "\n" not in sentence
    assert "5ecret" not in sentence
    assert LONG not in sentence
    assert raised.value.__cause__ is None


def test_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_API_KEY", f"n8n:{LONG}")
    monkeypatch.setenv("SD_LINK_SECRET", OTHER)

    shown = repr(load(ApiSettings))

    assert LONG not in shown
    assert OTHER not in shown


def test_each_scope_allows_what_the_ones_before_it_do_but_metrics_nothing_else() -> None:
    allowed = {scope: [other for other in Scope if scope.includes(other)] for scope in Scope}

    assert allowed == {
        Scope.READ: [Scope.READ],
        Scope.WRITE: [Scope.READ, Scope.WRITE],
        Scope.PRIORITY: [Scope.READ, Scope.WRITE, Scope.PRIORITY],
        Scope.ADMIN: [Scope.METRICS, Scope.READ, Scope.WRITE, Scope.PRIORITY, Scope.ADMIN],
        Scope.METRICS: [Scope.METRICS],
    }
