"""Checks that the external servers respond that this installation needs."""

from collections.abc import Iterator

from compose.doctor.findings import Finding, ok, problem
from compose.doctor.http_probe import ProbeFailed, ProbeResponse
from compose.doctor.installation import Installation

REMEDY = (
    "Check the network, the firewall and HTTPS_PROXY. HF_ENDPOINT names a mirror of Hugging Face; docs/models.md "
    "describes how to install models without a network."
)


def check(installation: Installation) -> Iterator[Finding]:
    responses = installation.responses.result()
    if not responses:
        yield ok("The configured backends need no internet access.")
    for url, response in responses.items():
        match response:
            case ProbeResponse():
                yield ok(f"{url} responds.")
            case ProbeFailed(reason):
                yield problem(f"{url} is unreachable: {reason}.", REMEDY)
