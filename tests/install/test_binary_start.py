"""What the binary does before chatd begins: config/binary/main.py."""

from __future__ import annotations

import os
import runpy
import ssl
from pathlib import Path
from typing import Any

import pytest

BINARY = Path(__file__).parent.parent.parent / "config" / "binary"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(BINARY))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    return runpy.run_path(str(BINARY / "main.py"))


def _built_for(monkeypatch: pytest.MonkeyPatch, cafile: str | None, capath: str | None) -> None:
    """OpenSSL finds this where it was built to look."""
    paths = ssl.DefaultVerifyPaths(cafile, capath, "SSL_CERT_FILE", "/x", "SSL_CERT_DIR", "/y")  # type: ignore[arg-type]
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)


def test_authorities_that_lie_elsewhere_are_found(
    start: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = tmp_path / "ca.pem"
    here.touch()
    monkeypatch.setitem(start["trust_this_system"].__globals__, "AUTHORITIES", (str(tmp_path / "none"), str(here)))
    empty = tmp_path / "empty"
    empty.mkdir()
    for capath in (None, str(empty)):
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        _built_for(monkeypatch, None, capath)
        start["trust_this_system"]()
        assert os.environ["SSL_CERT_FILE"] == str(here)


def test_what_openssl_finds_by_itself_or_is_told_stays(
    start: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(start["trust_this_system"].__globals__, "AUTHORITIES", (str(BINARY),))
    for cafile, capath in ((str(BINARY), None), (None, str(BINARY))):
        _built_for(monkeypatch, cafile, capath)
        start["trust_this_system"]()
        assert "SSL_CERT_FILE" not in os.environ
    monkeypatch.setenv("SSL_CERT_FILE", "/told")
    _built_for(monkeypatch, None, None)
    start["trust_this_system"]()
    assert os.environ["SSL_CERT_FILE"] == "/told"
