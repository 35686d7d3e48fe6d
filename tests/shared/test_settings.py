"""Settings: where they come from, and what is said of a wrong one."""

from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.schemas import Backend
from shared.settings import ApiSettings, LauncherSettings, Settings, load


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SD_PORT", "5ecret"),
        ("SD_PORT", "99999"),
        ("SD_BACKENDS", "sd,5ecret"),
        ("SD_BACKENDS", ","),
        ("SD_DEFAULT_BACKEND", "5ecret"),
        ("SD_REDIS_URL", "http://user:5ecret@host"),
        ("SD_REDIS_PREFIX", "5ecret 5ecret"),
        ("SD_PUBLIC_URL", "5ecret.example.com"),
        ("SD_LOG_FORMAT", "5ecret"),
        ("SD_JOB_TIMEOUT_SECONDS", "0"),
        ("SD_MAX_PIXELS", "-5"),
        ("SD_MAX_IMAGES_PER_JOB", "0"),
        ("SD_SYNC_TIMEOUT_SECONDS", "5ecret"),
        ("SD_DEVICE", "cuda:5ecret"),
        ("SD_DTYPE", "5ecret"),
        ("SD_WEBHOOK_ALLOW", "5ecret"),
        ("SD_WEBHOOK_ALLOW", "5ecret:5678"),
        ("SD_WEBHOOK_ALLOW", "http://5ecret"),
        ("SD_WEBHOOK_ALLOW", "http://5ecret:5678/"),
        ("SD_WEBHOOK_ALLOW", "http://n8n:5678/5ecret?a=b"),
        ("SD_WEBHOOK_ALLOW", "http://n8n:5678/5ecret#a"),
        ("SD_WEBHOOK_ALLOW", "http://n8n:5678/webhook/../5ecret"),
        ("SD_WEBHOOK_ALLOW", "http://n8n:5678/webhook/%2e%2e/5ecret"),
        ("SD_WEBHOOK_ALLOW", "http://n8n:5678//5ecret"),
        ("SD_WEBHOOK_ALLOW", "HTTP://5ecret:5678"),
        ("SD_WEBHOOK_ALLOW", "ftp://5ecret:21"),
        ("SD_WEBHOOK_ALLOW", "http://user:5ecret@n8n:5678"),
        ("SD_WEBHOOK_ALLOW", "http://n8n:5678,*.5ecret"),
        ("SD_WEBHOOK_ALLOW", "http://5ecret:99999"),
        ("SD_EGRESS_PROXY", "5ecret"),
        ("SD_EGRESS_PROXY", "http://me:5ecret@proxy"),
        ("SD_EGRESS_PROXY", "https://me:5ecret@proxy:3128"),
        ("SD_EGRESS_PROXY", "socks5://me:5ecret@proxy:1080"),
        ("SD_EGRESS_PROXY", "http://me:5e@cret@proxy:3128"),
        ("SD_EGRESS_PROXY", "http://5ecret@proxy:3128/path"),
        ("SD_WEBHOOK_HEADER", "5ecret"),
        ("SD_WEBHOOK_HEADER", "Content-Type: 5ecret"),
        ("SD_WEBHOOK_HEADER", '{"http://5ecret:5678/webhook": "X-Token: 5ecret"}'),
        ("SD_WEBHOOK_HEADER", '{"http://n8n:5678/webhook": 5ecret}'),
        ("SD_WEBHOOK_HEADER", '{"http://n8n:5678/webhook": ["5ecret"]}'),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as raised:
        load(LauncherSettings)

    sentence = raised.value.detail
    assert sentence.startswith(f"{name} is wrong: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "5ecret" not in sentence
    assert raised.value.__cause__ is None


def test_settings_are_read_from_a_file_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("SD_PORT=1234\nSD_HOST=0.0.0.0\nOTHER=1\n")
    monkeypatch.setenv("SD_PORT", "4321")

    settings = load(ApiSettings)

    assert (settings.host, settings.port) == ("0.0.0.0", 4321)


def test_only_variables_with_the_prefix_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("REDIS_URL", "redis://other")

    settings = load(ApiSettings)

    assert (settings.port, settings.redis_url) == (7860, "")


def test_an_empty_variable_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_PORT", "")
    monkeypatch.setenv("SD_DEFAULT_BACKEND", "")

    settings = load(ApiSettings)

    assert (settings.port, settings.default_backend) == (7860, None)


def test_backends_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_BACKENDS", " null , sd,")

    settings = load(ApiSettings)

    assert settings.backends == (Backend.NULL, Backend.SD)


def test_private_receivers_are_a_list_of_origins_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_WEBHOOK_ALLOW", "http://n8n:5678, https://10.0.0.5:443/a/B/,http://[fd00::1]:80")

    settings = load(Settings)

    assert settings.webhook_allow == ("http://n8n:5678", "https://10.0.0.5:443/a/B", "http://[fd00::1]:80")


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_FLOWER_BASIC_AUTH", "user:5ecret")
    monkeypatch.setenv("SD_HUGGINGFACE_TOKEN", "5ecret")

    assert "5ecret" not in repr(load(LauncherSettings))


def test_settings_never_change() -> None:
    settings = load(Settings)

    with pytest.raises(ValueError, match="frozen"):
        setattr(settings, "redis_url", "redis://other")  # noqa: B010 - mypy knows that it is frozen
