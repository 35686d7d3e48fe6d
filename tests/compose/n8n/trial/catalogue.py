"""All checks, in the order in which they run and are listed in docs/n8n.md."""

from tests.compose.n8n.trial.checks.agent import AGENT
from tests.compose.n8n.trial.checks.building import Check
from tests.compose.n8n.trial.checks.nodes import NODES
from tests.compose.n8n.trial.checks.openai_node import OPENAI
from tests.compose.n8n.trial.checks.stopping import STOPPING
from tests.compose.n8n.trial.checks.workflows import WORKFLOWS

CHECKS: dict[str, Check] = {**WORKFLOWS, **STOPPING, **NODES, **AGENT, **OPENAI}
