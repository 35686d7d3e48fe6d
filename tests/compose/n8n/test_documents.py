"""The code in docs/n8n.md verifies webhooks."""

import base64
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from tests.shared.webhooks.receiver import SECRET

DOCUMENT = Path(__file__).parents[3] / "docs" / "n8n.md"
BODY = json.dumps({"type": "job.succeeded", "data": {"label": "ä"}}, ensure_ascii=False)
#: The environment that n8n gives the code of a Code node.
WRAPPER = """
const {{ headers, body }} = JSON.parse(require("fs").readFileSync(0));
const $input = {{ first: () => ({{ json: {{ headers }} }}) }};
const context = {{ helpers: {{ getBinaryDataBuffer: async () => Buffer.from(body, "base64") }} }};
(async function () {{ {code} }}).call(context).then(
  (items) => console.log(JSON.stringify(items)), (error) => {{ console.log(error.message); process.exit(3); }});
"""


def run_code(headers: dict[str, str], body: str) -> "subprocess.CompletedProcess[str]":
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    (code,) = re.findall(r"^```javascript\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    script = WRAPPER.format(code=code.replace("whsec_...", SECRET))
    message = json.dumps({"headers": headers, "body": base64.b64encode(body.encode()).decode()})
    return subprocess.run([node, "-e", script], input=message, capture_output=True, text=True, check=False)


def signed(at: datetime) -> dict[str, str]:
    signature = Webhook(SECRET).sign("id_1", at, BODY)
    stamp = str(int(at.timestamp()))
    return {"webhook-id": "id_1", "webhook-timestamp": stamp, "webhook-signature": f"v1,b3RoZXI= {signature}"}


def test_the_code_passes_authentic_messages_on_and_stops_at_others() -> None:
    now = datetime.now(UTC)

    run = run_code(signed(now), BODY)
    assert (run.returncode, json.loads(run.stdout)) == (0, [{"json": json.loads(BODY)}]), run.stderr

    for headers, body in ((signed(now), BODY + " "), (signed(now - timedelta(hours=1)), BODY)):
        run = run_code(headers, body)
        assert (run.returncode, run.stdout) == (3, "This webhook is not from the service.\n")
