import pytest
from PIL import Image

from tests.compose.conftest import Launched
from tests.stack import free_port


@pytest.mark.parametrize(("ending", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_generate_saves_the_picture_in_the_format_of_the_file_name(service: Launched, ending: str, kind: str) -> None:
    command = service.cli("generate", "a prompt", "-o", f"out.{ending}", "--seed", "7", "--width", "96")

    assert command.wait() == 0
    assert "96x64" in command.output
    assert "seed 7" in command.output
    with Image.open(service.folder / f"out.{ending}") as picture:
        assert (picture.format, picture.size) == (kind, (96, 64))


def test_generate_says_what_is_wrong_with_a_request(service: Launched) -> None:
    command = service.cli("generate", "a prompt", "--width", "5000")

    assert command.wait() == 1
    assert "/width: must be a multiple of 1 between 16 and 4096" in command.output


def test_generate_says_how_to_start_the_service_that_is_not_there(service: Launched) -> None:
    command = service.cli("generate", "a prompt", "--url", f"http://127.0.0.1:{free_port()}")

    assert command.wait() == 1
    assert "imagegen up" in command.output
    assert "Traceback" not in command.output


def test_generate_refuses_a_file_name_it_has_no_format_for(service: Launched) -> None:
    command = service.cli("generate", "a prompt", "-o", "out.gif")

    assert command.wait() == 1
    assert not (service.folder / "out.gif").exists()
