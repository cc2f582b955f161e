"""Backup, restore, doctor, export and erase on a filled store: ``python -m bench.data_care --messages 1000000``.

Each command is a process of its own, as an operator runs it. CPU is what counts on a shared machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.move_store import fill

USER = "user0"


def command(name: str, *args: str) -> None:
    """Run one and print what it cost. Raises: SystemExit – it failed."""
    begun_s = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "chatd", *args], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read().splitlines()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name}: exit code {process.returncode}")
    wall_s, cpu_s = time.monotonic() - begun_s, used.ru_utime + used.ru_stime
    print(
        f"{name:18} {wall_s:6.1f} s, {cpu_s:6.1f} s of CPU, {used.ru_maxrss / 1024:4.0f} MiB: {said[0] if said else ''}"
    )


def main() -> None:
    """Fill, run each command, tell."""
    parser = argparse.ArgumentParser("python -m bench.data_care", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chatd-care-", dir=".") as name:
        place = Path(name)
        data, copy, back = str(place / "data"), str(place / "copy"), str(place / "back")
        # A process of its own, or its memory would be counted as that of the commands.
        filling = multiprocessing.get_context("spawn").Process(
            target=fill, args=(Path(data), args.users, args.messages, args.seed)
        )
        filling.start()
        filling.join()
        print(f"{args.messages} messages of {args.users} users, {os.path.getsize(f'{data}/chatd.db') / 2**20:.0f} MiB")
        command("doctor", "doctor", "--data-dir", data)
        command("doctor --full", "doctor", "--full", "--data-dir", data)
        command("backup", "backup", copy, "--data-dir", data)
        command("restore", "restore", copy, "--data-dir", back)
        command("restore --verify", "restore", copy, "--data-dir", f"{back}2", "--verify")
        command("export", "export", USER, str(place / "user.jsonl"), "--data-dir", data)
        print((place / "user.jsonl").read_bytes().splitlines()[-1].decode())
        command("erase", "erase", USER, "--yes", "--data-dir", data)


if __name__ == "__main__":
    main()
