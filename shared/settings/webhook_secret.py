"""The secret that signs webhooks."""

import base64
from typing import Annotated

from pydantic import AfterValidator, SecretStr

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


class WebhookSecretSettings(LinkSettings):
    """Settings of what signs webhooks, and of what shows their receivers how to verify them."""

    webhook_secret: Annotated[Annotated[SecretStr, AfterValidator(_webhook_secret)] | None, Group.WEBHOOKS] = None
    """Secret that signs webhooks: whsec_ followed by 24 to 64 random bytes as base64. To change it, list the new and
    the old one, comma-separated: webhooks then carry a signature of each. If empty, webhooks are not signed."""
