"""Whether the servers answer that this installation needs."""

from collections.abc import Iterator

from compose.doctor.asking import ProbeFailed, ProbeResponse
from compose.doctor.findings import Finding, ok, problem
from compose.doctor.surroundings import Surroundings

REMEDY = (
    "Look at the network, the firewall and HTTPS_PROXY. HF_ENDPOINT names a mirror of Hugging Face; docs/models.md "
    "says how a machine without a network gets its models."
)


def look(here: Surroundings) -> Iterator[Finding]:
    answers = here.outside.result()
    if not answers:
        yield ok("Nothing that is configured needs the internet.")
    for url, answer in answers.items():
        match answer:
            case ProbeResponse():
                yield ok(f"{url} answers.")
            case ProbeFailed(why):
                yield problem(f"{url} cannot be reached: {why}.", REMEDY)
