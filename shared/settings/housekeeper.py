"""Settings of the housekeeper."""

import base64
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from shared.net.allowlist import parse_receiver_headers
from shared.settings.groups import Group
from shared.settings.service import LinkSettings


def _webhook_secret(value: SecretStr) -> SecretStr:
    parse_signing_keys(value)
    return value


def parse_signing_keys(secret: SecretStr) -> list[bytes]:
    """Decode the keys that sign webhooks. Raises ValueError."""
    entries = secret.get_secret_value().replace(",", " ").split()
    try:
        keys = [base64.b64decode(entry.removeprefix("whsec_"), validate=True) for entry in entries]
    except ValueError:
        keys = []
    has_prefixes = all(entry.startswith("whsec_") for entry in entries)
    if not keys or not has_prefixes or not all(24 <= len(key) <= 64 for key in keys):
        raise ValueError("must be whsec_ followed by 24 to 64 bytes as base64, such as from: openssl rand -base64 32")
    return keys


def _header(value: SecretStr, info: ValidationInfo) -> SecretStr:
    parse_receiver_headers(value.get_secret_value(), info.data.get("webhook_allow", ()))
    return value


class HousekeeperSettings(LinkSettings):
    """Settings that the housekeeper needs."""

    webhook_secret: Annotated[Annotated[SecretStr, AfterValidator(_webhook_secret)] | None, Group.WEBHOOKS] = None
    """Secret that signs webhooks: whsec_ followed by 24 to 64 random bytes as base64. To change it, list the new and
    the old one, comma-separated: webhooks then carry a signature of each. If empty, webhooks are not signed."""
    webhook_header: Annotated[Annotated[SecretStr, AfterValidator(_header)] | None, Group.WEBHOOKS] = None
    """Extra header of webhooks, as `Name: value`, such as for Header Auth in n8n; or one per entry of SD_WEBHOOK_ALLOW,
    as JSON: {"http://n8n:5678/webhook/images": "Name: value"}. It is only sent to URLs below the paths of these
    entries, and for entries without a path to n8n's Wait nodes (/webhook-waiting), because callers choose all other
    URLs."""
    webhook_inline_max_bytes: Annotated[int, Group.WEBHOOKS, Field(ge=0, le=16_777_216)] = 2_097_152
    """Maximum total size of images that a webhook carries inline, if its caller asks for that."""
    webhook_concurrency: Annotated[int, Group.WEBHOOKS, Field(ge=1, le=256)] = 32
    """Maximum webhooks that a housekeeper sends at the same time, to all receivers together."""
