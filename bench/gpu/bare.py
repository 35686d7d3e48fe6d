"""The script that a user would write: `python -m bench.gpu.bare FOLDER DEVICE DTYPE STEPS GUIDANCE SIDE`.

Prints `ready` after its first image. Then, for each number of images that it reads, it prints the seconds that one call
for so many takes: with saving for a single image, without for several.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar

PROMPT = "a red heart on a blue background"


def main() -> None:
    folder, device, dtype, steps, guidance, side = sys.argv[1:]
    disable_progress_bar()
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True).to(device)
    pipe.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as outputs:

        def images(count: int) -> None:
            made = pipe(
                prompt=[PROMPT] * count,
                num_inference_steps=int(steps),
                guidance_scale=float(guidance),
                width=int(side),
                height=int(side),
                generator=[torch.Generator().manual_seed(seed) for seed in range(count)],
            ).images
            if count == 1:
                made[0].save(Path(outputs) / "image.png")

        images(1)
        print("ready", flush=True)
        for line in sys.stdin:
            begin = time.perf_counter()
            images(int(line))
            print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
