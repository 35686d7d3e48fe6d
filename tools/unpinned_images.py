"""Print container images without a digest, and fail if there are any.

kubectl kustomize compose/kubernetes/example | python -m tools.unpinned_images
docker compose config | python -m tools.unpinned_images
"""

import re
import sys


def unpinned(manifests: str) -> list[str]:
    """Images without a digest in manifests, in all YAML styles that this repository uses."""
    images = re.findall(r"""^\s*(?:-\s*)?["']?image["']?:\s*["']?([^\s"',}]+)""", manifests, re.MULTILINE)
    return sorted({image for image in images if not re.search(r"@sha256:[0-9a-f]{64}$", image)})


def main() -> None:
    images = unpinned(sys.stdin.read())
    if images:
        sys.exit("\n".join(f"{image} has no digest" for image in images))


if __name__ == "__main__":
    main()
