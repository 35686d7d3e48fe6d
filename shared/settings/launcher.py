"""Settings of `imagegen up`."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from shared.errors import ConfigurationError
from shared.settings.api import ApiSettings
from shared.settings.groups import Group
from shared.settings.housekeeper import HousekeeperSettings
from shared.settings.http_server import is_loopback
from shared.settings.worker import WorkerSettings


def _login(value: SecretStr) -> SecretStr:
    # Flower refuses every login if one is not.
    if not re.fullmatch(r"[!-~]+:[!-~]+", value.get_secret_value()):
        raise ValueError("must be user:password, of visible ASCII characters without spaces")
    return value


class LauncherSettings(ApiSettings, WorkerSettings, HousekeeperSettings):
    """Settings that `imagegen up` needs: those of all processes, and its own."""

    # Another default than that of an API alone, which starts no Flower.
    flower_port: Annotated[int, Group.OPERATIONS, Field(ge=0, le=65_535)] = 5555
    """Port of the Flower dashboard on SD_HOST, which the studio links to; 0 disables it."""
    flower_basic_auth: Annotated[Annotated[SecretStr, AfterValidator(_login)] | None, Group.OPERATIONS] = None
    """Login of the Flower dashboard, as user:password. Required unless SD_HOST is a loopback address."""

    def require_flower_login(self) -> None:
        """Raises ConfigurationError if the dashboard would be open to the network."""
        if self.flower_basic_auth is None and not is_loopback(self.reachable_address):
            raise ConfigurationError(
                f"SD_FLOWER_BASIC_AUTH is empty, and SD_HOST={self.reachable_address} opens the dashboard to the "
                "network: set it to user:password, or set SD_FLOWER_PORT=0 to run without it."
            )
