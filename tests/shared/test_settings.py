"""Settings: their sources, and messages about invalid values."""

from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.settings.api import ApiSettings
from shared.settings.groups import Group
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load, setting_warnings
from shared.settings.service import Settings


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        ("SD_REDIS_URL", "redis://:5ecret@host/5ecret"),
        ("SD_REDIS_URL", "redis://:5ecret@host/0/1"),
        ("SD_REDIS_PREFIX", "5ecret 5ecret"),
        ("SD_PUBLIC_URL", "5ecret.example.com"),
        ("SD_PUBLIC_URL", "https://me:5ecret@example.com"),
        ("SD_PUBLIC_URL", "https://example.com/?5ecret"),
        ("SD_PUBLIC_URL", "https://example.com/#5ecret"),
        ("SD_PUBLIC_URL", "https://example.com:5ecret"),
        ("SD_PUBLIC_URL", "https://[5ecret"),
        ("SD_PUBLIC_URL", "https://example.com/a 5ecret"),
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
        ("SD_FLOWER_BASIC_AUTH", "5ecret"),
        ("SD_FLOWER_BASIC_AUTH", "me:5ecret-ü"),
        ("SD_HUGGINGFACE_TOKEN", "“hf_5ecret”"),
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
def test_an_invalid_value_is_explained_in_one_sentence_that_names_the_variable(
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


def test_the_environment_overrides_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("SD_PORT=1234\nSD_HOST=0.0.0.0\nOTHER=1\n")
    monkeypatch.setenv("SD_PORT", "4321")

    settings = load(ApiSettings)

    assert (settings.host, settings.port) == ("0.0.0.0", 4321)


def test_variables_without_the_prefix_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("REDIS_URL", "redis://other")

    settings = load(ApiSettings)

    assert (settings.port, settings.redis_url) == (7860, "")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_PORT", "")
    monkeypatch.setenv("SD_DEFAULT_BACKEND", "")

    settings = load(ApiSettings)

    assert (settings.port, settings.default_backend) == (7860, None)


@pytest.mark.parametrize("value", [" abc-of-sixteen-chars\n", '"abc-of-sixteen-chars"', "'abc-of-sixteen-chars'"])
def test_a_line_break_and_quotes_around_a_value_do_not_belong_to_it(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    for name in ("SD_HUGGINGFACE_TOKEN", "SD_LINK_SECRET", "SD_MODEL_ID"):
        monkeypatch.setenv(name, value)

    settings = load(LauncherSettings)

    secrets = {secret.get_secret_value() for secret in (settings.huggingface_token, settings.link_secret) if secret}
    assert {*secrets, settings.model_id} == {"abc-of-sixteen-chars"}


@pytest.mark.parametrize("value", [" ", '""', "' '", "\n"])
def test_a_blank_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SD_PORT", value)
    monkeypatch.setenv("SD_MODEL_ID", value)

    settings = load(LauncherSettings)

    assert (settings.port, settings.model_id) == (7860, "starter")


def test_the_scheme_of_a_redis_url_may_have_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_REDIS_URL", "REDIS://:Secret@Host:6379/2")

    assert load(Settings).redis_url == "redis://:Secret@Host:6379/2"


def test_backends_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_BACKENDS", " null , sd,")

    settings = load(ApiSettings)

    assert settings.backends == (Backend.NULL, Backend.SD)


def test_the_allowlist_has_origins_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_WEBHOOK_ALLOW", "http://n8n:5678, https://10.0.0.5:443/a/B/,http://[fd00::1]:80")

    settings = load(Settings)

    assert settings.webhook_allow == ("http://n8n:5678", "https://10.0.0.5:443/a/B", "http://[fd00::1]:80")


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_FLOWER_BASIC_AUTH", "user:5ecret")
    monkeypatch.setenv("SD_HUGGINGFACE_TOKEN", "5ecret")

    assert "5ecret" not in repr(load(LauncherSettings))


def test_every_setting_belongs_to_one_group_and_the_first_group_has_ten() -> None:
    groups = {
        name: [item for item in field.metadata if isinstance(item, Group)]
        for name, field in LauncherSettings.model_fields.items()
    }

    assert {name: found for name, found in groups.items() if len(found) != 1} == {}
    assert len([name for name, found in groups.items() if found == [Group.START]]) == 10


def test_settings_are_frozen() -> None:
    settings = load(Settings)

    with pytest.raises(ValueError, match="frozen"):
        setattr(settings, "redis_url", "redis://other")  # noqa: B010 - mypy knows that it is frozen


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-with-mark"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_an_env_file_is_read_in_every_common_encoding(encoding: str, newline: str) -> None:
    text = newline.join(("# für mich", "SD_PORT=7999", "SD_LOG_FORMAT=json", ""))
    data = b"\xff\xfe" + text.encode("utf-16-le") if encoding == "utf-16-le-with-mark" else text.encode(encoding)
    Path(".env").write_bytes(data)

    settings = load(LauncherSettings)

    assert (settings.port, settings.log_format) == (7999, "json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("SD_HOST=::1\n# für mich\n".encode("latin-1"), r"is not UTF-8 text \(line 2\): save it as UTF-8"),
        (b"SD_HOST=::1\nSD_OUTPUT_DIR=a\0b\n", r"is not UTF-8 text \(line 2\)"),
        (b'SD_HOST=::1\nSD_API_KEY="0123\nSD_PORT=7999\n', r"is malformed \(line 2\): write NAME=value there"),
        (None, "cannot be read"),
    ],
)
def test_an_unreadable_env_file_is_explained(data: bytes | None, message: str) -> None:
    Path(".env").write_bytes(data) if data else Path(".env").mkdir()

    with pytest.raises(ConfigurationError, match=rf"\.env {message}"):
        load(Settings)


def test_a_leading_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/ca.pem").touch()
    monkeypatch.setenv("SD_LORA_DIR", "~/loras")
    Path(".env").write_text("SD_OUTPUT_DIR=~/images\nSD_MODEL_ID=~/own\nSD_CA_FILE=~/ca.pem\n")

    settings = load(LauncherSettings)

    home = tmp_path / "home"
    assert settings.output_dir == home / "images"
    assert settings.lora_dir == home / "loras"
    assert settings.model_id == str(home / "own")
    assert settings.ca_file == home / "ca.pem"
    monkeypatch.setenv("SD_DATA_DIR", "~no-such-user-here/data")
    with pytest.raises(ConfigurationError, match="SD_DATA_DIR is wrong: begins with ~"):
        load(LauncherSettings)


def test_a_misspelled_setting_is_reported_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_DEFAULT_BACKND", "null")
    Path(".env").write_text("SD_MODLE_ID=stabilityai/sd-turbo\nSD_PORT=7999\nOTHER=1\n")

    sentences = setting_warnings(load(LauncherSettings))

    assert [sentence for sentence in sentences if "MODLE" in sentence or "BACKND" in sentence] == [
        "SD_DEFAULT_BACKND is not a setting and has no effect (did you mean SD_DEFAULT_BACKEND?).",
        "SD_MODLE_ID is not a setting and has no effect (did you mean SD_MODEL_ID?).",
    ]
    assert not [sentence for sentence in sentences if "SD_PORT" in sentence or "OTHER" in sentence]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("SD_BACKENDS", "flux_local", "did you mean flux-local?"),
        ("SD_BACKENDS", "null,SD", "did you mean sd?"),
        ("SD_PORT", "eighty", "must be a whole number"),
        ("SD_PORT", "70000", "must be at most 65535"),
        ("SD_ALLOW_OPEN", "maybe", "must be true or false"),
        ("SD_LOG_FORMAT", "xml", "must be one of 'text' or 'json'"),
        ("SD_PORT", "1.000", "must be a whole number"),
        ("SD_CA_FILE", "nope.pem", "names a file that does not exist"),
        ("SD_CA_FILE", "/", "names something that is not a file"),
        ("SD_REDIS_CERT_FILE", "x" * 300, "names a file that cannot be read (File name too long)"),
        ("SD_LINK_SECRET", "5ecret", "must have at least 16 characters"),
        ("SD_PUBLIC_URL", "https://example.com/b\u00fccher", "ASCII characters"),
        ("SD_ALLOWED_HOSTS", "\u3002", "each entry must be a host name"),
        # Celery's queues have ASCII names, and PyTorch's devices ASCII digits.
        ("SD_REDIS_PREFIX", "\u00fc", "does not have the format"),
        ("SD_DEVICE", "cuda:\u0663", "does not have the format"),
        ("SD_HOST", "http://localhost", "the port goes into SD_PORT"),
        ("SD_HOST", "localhost:7860", "the port goes into SD_PORT"),
        ("SD_REDIS_URL", "redis://:pa/5ecret@host:6379/0", "in a password, write / "),
        ("SD_REDIS_URL", "redis://:5ecret@host:99999/0", "has no readable host and port"),
        ("SD_REDIS_URL", "unix://", "unix:///path"),
    ],
)
def test_an_invalid_value_is_explained_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as raised:
        load(LauncherSettings)

    assert reason in raised.value.detail
    assert "5ecret" not in raised.value.detail


def test_host_names_are_those_that_clients_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_PUBLIC_URL", "https://B\u00fccher.example:8443/images/")
    monkeypatch.setenv("SD_ALLOWED_HOSTS", "*.b\u00fccher.example, Images.example.")

    settings = load(ApiSettings)

    assert settings.public_url == "https://xn--bcher-kva.example:8443/images"
    assert settings.allowed_hosts == ("*.xn--bcher-kva.example", "images.example")


def test_brackets_around_an_ipv6_address_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SD_HOST", "[::1]")

    assert load(LauncherSettings).host == "::1"
