"""The Imagegen node as a tool of n8n's AI Agent, checked in a real n8n with a scripted language model."""

import json

from tests.compose.n8n.trial.chat_model import NAME, ChatModel, chat_model
from tests.compose.n8n.trial.checks.building import PACKAGE, Check, chain, imagegen_credentials, images, node
from tests.compose.n8n.trial.editor import Result
from tests.compose.n8n.trial.workshop import Workflow, Workshop

#: What the editor writes into a field after *Let the model define this parameter*.
BY_THE_MODEL = "={{ /*n8n-auto-generated-fromAI-override*/ $fromAI('Prompt', ``, 'string') }}"
#: The image that the document fetches behind the agent.
JOB = "={{ JSON.parse($json.intermediateSteps[0].observation)[0].job }}"


def the_node_is_offered_as_a_tool(workshop: Workshop) -> str:
    response = workshop.n8n.get("/types/nodes.json")
    (tool,) = [kind for kind in response if kind["name"] == f"{PACKAGE}.imagegenTool"]
    assert tool["outputs"] == ["ai_tool"], tool["outputs"]
    return f"*{tool['displayName']}* among the tools"


def the_model_gets_an_image_for_each_call(workshop: Workshop) -> str:
    castle = {"Prompt": "a castle"}
    with chat_model([castle, castle], [{"Prompt": "a penguin"}]) as model:
        result = _run(workshop, model)
    (offered,) = model.offered
    assert offered["function"]["parameters"]["required"] == ["Prompt"], offered
    answers = [json.loads(text)[0] for text in model.results]
    assert [answer["prompt"] for answer in answers] == ["a castle", "a castle", "a penguin"], answers
    assert len({answer["job"] for answer in answers}) == 3, answers
    drawn = [run["data"]["ai_tool"][0][0]["binary"]["data"]["mimeType"] for run in result.nodes["Draw"]]
    assert drawn == ["image/png"] * 3
    (image,) = images(result, "Image")
    assert image["json"]["job"] == answers[0]["job"]
    return "a scripted model calls it three times, twice with the same prompt: three jobs; the image behind the agent"


def the_model_learns_what_is_wrong(workshop: Workshop) -> str:
    with chat_model([{"Prompt": ""}], [{"Prompt": "a castle"}]) as model:
        _run(workshop, model)
    ((problem,), (answer,)) = (json.loads(text) for text in model.results)
    assert problem["error"] == "prompt must not be empty.", problem
    assert answer["prompt"] == "a castle"
    return f"`{problem['error']}`, and its next call succeeds"


def _run(workshop: Workshop, model: ChatModel) -> Result:
    data = {"apiKey": "any", "url": model.url}
    credential = workshop.n8n.create_credential("scripted model", "openAiApi", data)
    return workshop.run(_workflow(workshop, credential))


def _workflow(workshop: Workshop, credential: dict[str, str]) -> Workflow:
    agent = {"promptType": "define", "text": "Draw a castle.", "options": {"returnIntermediateSteps": True}}
    language_model = {"model": {"__rl": True, "mode": "id", "value": NAME}, "responsesApiEnabled": False, "options": {}}
    ours, theirs = imagegen_credentials(workshop), {"openAiApi": credential}
    fetch = {"resource": "job", "operation": "wait", "jobId": JOB}
    workflow = chain(
        node("Agent", "@n8n/n8n-nodes-langchain.agent", 3.1, agent),
        node("Image", f"{PACKAGE}.imagegen", 1, fetch, ours, onError="continueRegularOutput"),
    )
    workflow["nodes"] += [
        node("Model", "@n8n/n8n-nodes-langchain.lmChatOpenAi", 1.3, language_model, theirs),
        node("Draw", f"{PACKAGE}.imagegenTool", 1, {"prompt": BY_THE_MODEL}, ours),
    ]
    for name, kind in ("Model", "ai_languageModel"), ("Draw", "ai_tool"):
        workflow["connections"][name] = {kind: [[{"node": "Agent", "type": kind, "index": 0}]]}
    return workflow


AGENT: dict[str, Check] = {
    "AI Agent: the tool": the_node_is_offered_as_a_tool,
    "AI Agent: calls": the_model_gets_an_image_for_each_call,
    "AI Agent: problems": the_model_learns_what_is_wrong,
}
