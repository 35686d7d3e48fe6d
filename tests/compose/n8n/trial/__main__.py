"""`make n8n`: installs a real n8n, runs every workflow in it, and prints what held."""

import argparse
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.compose.n8n.trial.checks import CHECKS
from tests.compose.n8n.trial.installation import N8N_VERSION, install
from tests.compose.n8n.trial.node_checks import NODE_CHECKS
from tests.compose.n8n.trial.workshop import Workshop, opened

RECORDINGS = Path(__file__).parents[1] / "recorded.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".n8n"), help="where n8n is installed")
    parser.add_argument("--only", default="", help="run only the checks whose name contains this")
    options = parser.parse_args()
    installation = install(options.folder.resolve())
    with tempfile.TemporaryDirectory(prefix="n8n-") as folder, opened(installation, Path(folder)) as workshop:
        failed = run_checks(workshop, options.only)
        if not failed and not options.only:
            RECORDINGS.write_text(json.dumps(workshop.recordings, indent=1, ensure_ascii=False) + "\n")
            print(f"\nRecorded the requests of n8n in {RECORDINGS}")
    sys.exit(1 if failed else 0)


def run_checks(workshop: Workshop, only: str) -> bool:
    failed = False
    print(f"\nn8n {N8N_VERSION}\n\n| checked | held | how |\n|---|---|---|", flush=True)
    for name, check in {**CHECKS, **NODE_CHECKS}.items():
        if only not in name:
            continue
        began = time.monotonic()
        try:
            held, how = "yes", check(workshop)
        except Exception as error:
            failed, held, how = True, "NO", " ".join(str(error).split())[:400]
            traceback.print_exc()
        print(f"| {name} | {held} | {how} |", flush=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return failed


if __name__ == "__main__":
    main()
