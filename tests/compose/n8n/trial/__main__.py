"""`make n8n`: installs a real n8n, runs every workflow and node in it, and prints what held."""

import argparse
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.compose.n8n.trial.catalogue import CHECKS
from tests.compose.n8n.trial.installation import N8N_VERSION, NODE_VERSION, install
from tests.compose.n8n.trial.report import Outcome, as_table, into_document
from tests.compose.n8n.trial.workshop import Workshop, opened

RECORDINGS = Path(__file__).parents[1] / "recorded.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".n8n"), help="where n8n is installed")
    parser.add_argument("--only", default="", help="run only the checks whose name contains this")
    options = parser.parse_args()
    began = time.monotonic()
    installation = install(options.folder.resolve())
    installed = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="n8n-") as folder, opened(installation, Path(folder)) as workshop:
        outcomes = run_checks(workshop, options.only)
    print(f"\nn8n {N8N_VERSION}, Node {NODE_VERSION}\n\n{as_table(outcomes)}")
    failed = [outcome.name for outcome in outcomes if not outcome.held]
    print(f"\n{len(outcomes) - len(failed)} of {len(outcomes)} hold: {', '.join(failed) or 'no failures'}.")
    print(f"Installing took {installed - began:.0f} s, the checks {time.monotonic() - installed:.0f} s.")
    if outcomes and not failed and not options.only:
        RECORDINGS.write_text(json.dumps(workshop.recordings, indent=1, ensure_ascii=False) + "\n")
        into_document(outcomes)
        print("Recorded the requests of n8n for the tests, and wrote the table into docs/n8n.md.")
    sys.exit(1 if failed or not outcomes else 0)


def run_checks(workshop: Workshop, only: str) -> list[Outcome]:
    outcomes = []
    for name, check in CHECKS.items():
        if only not in name:
            continue
        began = time.monotonic()
        try:
            outcome = Outcome(name, True, check(workshop))
        except Exception as error:
            outcome = Outcome(name, False, " ".join(str(error).split())[:400])
            traceback.print_exc()
        outcomes.append(outcome)
        print(f"{name}: {outcome.word}, {time.monotonic() - began:.0f} s: {outcome.how}", flush=True)
    return outcomes


if __name__ == "__main__":
    main()
