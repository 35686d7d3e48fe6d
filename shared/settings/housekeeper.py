"""Settings of the housekeeper."""

import base64
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from shared.net.allowlist import parse_receiver_headers
from shared.settings.service import LinkSettings


def _webhook_secret(value: SecretStr) -> SecretStr:
    parse_signing_keys(value)
    return value


def parse_signing_keys(secret: SecretStr) -> list[bytes]:
    """What webhooks are signed with. Raises ValueError."""
    entries = secret.get_secret_value().replace(",", " ").split()
    try:
        keys = [base64.b64decode(entry.removeprefix("whsec_"), validate=True) for entry in entries]
    except ValueError:
        keys = []
    sound = all(entry.startswith("whsec_") for entry in entries) and all(24 <= len(key) <= 64 for key in keys)
    if not keys or not sound:
        raise ValueError("must be whsec_ and 24 to 64 bytes as base64, e.g. of: openssl rand -base64 32")
    return keys


def _header(value: SecretStr, info: ValidationInfo) -> SecretStr:
    parse_receiver_headers(value.get_secret_value(), info.data.get("webhook_allow", ()))
    return value


class HousekeeperSettings(LinkSettings):
    """What the housekeeper needs."""

    webhook_secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] | None = None
    """Signs webhooks: whsec_ and 24 to 64 random bytes as base64. Several, comma-separated, sign side by side, for a
    change of secret. Empty: webhooks are not signed."""
    webhook_header: Annotated[SecretStr, AfterValidator(_header)] | None = None
    """A header that webhooks carry, as `Name: value`, e.g. for Header Auth in n8n; or one for each entry of
    SD_WEBHOOK_ALLOW, as JSON: {"http://n8n:5678/webhook/images": "Name: value"}. Sent below the paths of these entries
    alone, and of entries without a path to n8n's Wait nodes (/webhook-waiting): callers choose all other addresses."""
    webhook_inline_max_bytes: Annotated[int, Field(ge=0, le=16_777_216)] = 2_097_152
    """Most bytes of images that a webhook carries itself, where its caller asks for that."""
    webhook_concurrency: Annotated[int, Field(ge=1, le=256)] = 32
    """Webhooks that one housekeeper sends at a time, to all receivers together."""
