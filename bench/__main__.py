"""``make bench``: the standard set, saved as ``bench/results/<date>.json``; arguments as of ``chatd bench``."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from chatd.testing.load import main

RESULTS = Path(__file__).parent / "results"

if __name__ == "__main__":
    name = f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}.json"
    sys.exit(main(["--json", str(RESULTS / name), *sys.argv[1:]]))
