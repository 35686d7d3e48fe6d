from tests.stack import Stack


def test_a_prompt_becomes_a_picture(null: Stack) -> None:
    answer = null.api.post("/api/txt2img", {"prompt": "x"})

    assert answer.status_code == 200
    assert answer.json()["state"] == "succeeded"
