"""What `ray submit` runs on the head node: the same command line, connected to the cluster that runs there.

ray submit ray_config.yaml clusters/submit.py bench imagenet_r50_east
"""

from __future__ import annotations

import sys

from harness.cli import main

USES_RAY = ("train", "bench", "tune")


def arguments(words: list[str]) -> list[str]:
    """The command as given, with --address auto unless it names an address."""
    named = any(word == "--address" or word.startswith("--address=") for word in words)
    if words and words[0] in USES_RAY and not named:
        return [*words, "--address", "auto"]
    return words


if __name__ == "__main__":
    sys.argv = ["harness", *arguments(sys.argv[1:])]
    main()
