# ruff: noqa: T201 - printing is what it is for
"""Makes the binaries in dist/: `make binary` runs it with the interpreter of an environment that the lock files made.

dist/chatd is the one-file form, dist/chatd-VERSION-PLATFORM.tar.gz the one-folder form for services, with what an
installation needs beside it; dist/chatd.cdx.json tells what is inside, dist/SHA256SUMS the digests.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "build" / "binary"
MADE = WORK / "dist"
DIST = ROOT / "dist"
BYTES_MAX = 20_000_000
BESIDE = ("docs/chatd.1", "LICENSE", "config/systemd/chatd.service", "config/systemd/chatd-cluster.service")


def main() -> None:
    """Build, look the result over, and only then put it into dist/."""
    for program in ("strip", "objdump"):
        if shutil.which(program) is None:
            sys.exit(f"make binary: no {program}: install it (Debian: apt-get install binutils)")
    # Neither this directory nor whoever calls is part of it: the environment alone.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CHATD_"))}
    env |= {"PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": "0"}
    pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    _run([*pip, "--no-deps", "--no-build-isolation", "--force-reinstall", str(ROOT)], env)
    shutil.rmtree(MADE, ignore_errors=True)
    spec = str(ROOT / "config" / "binary" / "chatd.spec")
    pyinstaller = [sys.executable, "-P", "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN"]
    _run([*pyinstaller, "--distpath", str(MADE), "--workpath", str(WORK / "work"), spec], env)
    _look_over(MADE / "chatd")
    DIST.mkdir(exist_ok=True)
    for old in (*DIST.glob("chatd-*.tar.gz"), DIST / "SHA256SUMS"):
        old.unlink(missing_ok=True)
    name = f"chatd-{metadata.version('chatd')}-{sys.platform}-{platform.machine()}"
    archive = DIST / f"{name}.tar.gz"
    _pack(archive, name)
    shutil.copy(MADE / "chatd.cdx.json", DIST)
    shutil.copy(MADE / "chatd-one-file", DIST / "chatd")
    results = [DIST / "chatd", archive, DIST / "chatd.cdx.json"]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in results]
    (DIST / "SHA256SUMS").write_text("".join(sums), "ascii")
    for path in results:
        print(f"{path.stat().st_size / 1e6:6.1f} MB  {path.relative_to(ROOT)}")
    too_large = [path.name for path in results if path.stat().st_size > BYTES_MAX]
    if too_large:
        sys.exit(f"make binary: over {BYTES_MAX} bytes: {', '.join(too_large)}")


def _run(command: list[str], env: dict[str, str]) -> None:
    ended = subprocess.run(command, env=env, cwd=WORK, check=False)  # noqa: S603 - our own command
    if ended.returncode:
        sys.exit(f"make binary: {command[3]} failed with exit code {ended.returncode}")


def _look_over(folder: Path) -> None:
    """Nothing inside asks for a C++ library, which is not inside."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.read_bytes()[:4] != b"\x7fELF":
            continue
        told = subprocess.run(["objdump", "-p", str(path)], capture_output=True, text=True, check=True)  # noqa: S603, S607
        if "libstdc++" in told.stdout:
            sys.exit(
                f"make binary: {path.relative_to(folder)} asks for libstdc++: leave it out in config/binary/chatd.spec"
            )


def _pack(archive: Path, name: str) -> None:
    """The folder and what belongs to an installation, the same bytes for the same files."""
    folder = MADE / "chatd"
    for beside in BESIDE:
        shutil.copy(ROOT / beside, folder)
    shutil.copy(MADE / "chatd.cdx.json", folder)

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = 0
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", 9, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        tar.add(folder, name, recursive=False, filter=plain)
        for path in sorted(folder.rglob("*")):
            tar.add(path, f"{name}/{path.relative_to(folder)}", recursive=False, filter=plain)


if __name__ == "__main__":
    main()
