"""``python -m chatd.testing.harness``."""

from __future__ import annotations

import argparse
import asyncio
import sys

from chatd.testing.harness.run import run
from chatd.testing.killing import PLANTS


def main(argv: list[str] | None = None) -> int:
    """Run, and print what it did and found. Returns: the exit code, 1 if there was an anomaly."""
    parser = argparse.ArgumentParser("python -m chatd.testing.harness", description=__doc__)
    parser.add_argument("--cycles", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plant", choices=PLANTS, help="put this bug into the server and stop when it is found")
    args = parser.parse_args(argv)
    summary = asyncio.run(run(args.cycles, seed=args.seed, plant=args.plant, stop_when_found=args.plant is not None))
    return summary.tell()


if __name__ == "__main__":
    sys.exit(main())
