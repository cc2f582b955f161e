"""What the binary starts with: `chatd`, and nothing else."""

import one_file

from chatd.cli import main

if __name__ == "__main__":
    one_file.prepare()
    main()
