"""Health check over HTTP: `python -m shared.net.healthcheck 7860 /health/live`. Runs often and imports no package."""

import sys
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

TIMEOUT_SECONDS = 4.0


def is_healthy(port: int, path: str) -> bool:
    """Whether the local server on `port` answers 200. Ignores proxies of the environment."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_healthy(int(sys.argv[1]), sys.argv[2]))
