"""The script that a user would write without this service: load the model, generate an image, save it.

`python -m bench.bare STEPS GUIDANCE SEED PROMPT` prints `ready` after its first image, then, for each line of input,
the seconds that one more image takes.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils.logging import disable_progress_bar

MODEL = Path(__file__).parent.parent / "worker/models/starter"


def main() -> None:
    steps, guidance, seed, prompt = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    disable_progress_bar()
    pipe = StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as folder:

        def image() -> None:
            generator = torch.Generator().manual_seed(seed)
            result = pipe(prompt, num_inference_steps=steps, guidance_scale=guidance, generator=generator)
            result.images[0].save(Path(folder) / "image.png")

        image()
        print("ready", flush=True)
        for _ in sys.stdin:
            begin = time.perf_counter()
            image()
            print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
