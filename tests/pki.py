"""Certificates of one's own, made by openssl."""

import subprocess
from pathlib import Path


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def ca(folder: Path, name: str) -> Path:
    """A CA of its own: `name.pem` with `name-key.pem`."""
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",  # which Python 3.13 insists on
        "-keyout",
        str(key),
        "-out",
        str(cert),
    )
    return cert


HERE = "DNS:localhost,IP:127.0.0.1"


def issued(folder: Path, name: str, by: str, days: str = "2", names: str = HERE) -> tuple[Path, Path]:
    """A certificate of a CA for this machine, or for other ``names``, with its key."""
    cert, key, request, extra = (folder / f"{name}{end}" for end in (".pem", "-key.pem", ".csr", ".ext"))
    extra.write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))
    signer = ["-CA", str(folder / f"{by}.pem"), "-CAkey", str(folder / f"{by}-key.pem"), "-CAcreateserial"]
    openssl("x509", "-req", "-in", str(request), *signer, "-days", days, "-extfile", str(extra), "-out", str(cert))
    return cert, key
