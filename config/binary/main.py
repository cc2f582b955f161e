"""What the binary starts with: `chatd`, and nothing else."""

import os
import ssl

import one_file

from chatd.cli import main

AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)


def trust_this_system() -> None:
    """OpenSSL looks for authorities where it was built to; this machine may keep them elsewhere."""
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not (paths.capath and os.listdir(paths.capath)):
        found = next((path for path in AUTHORITIES if os.path.exists(path)), None)
        if found is not None:
            os.environ.setdefault(paths.openssl_cafile_env, found)


if __name__ == "__main__":
    one_file.prepare()
    trust_this_system()
    main()
