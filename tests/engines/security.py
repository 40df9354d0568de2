"""What turns a node's security on: TLS with a certificate of its own, users and roles."""

import shutil
from pathlib import Path

from tests.engines.catalog import PASSWORD, Missing, Spec
from tests.engines.jars import run

X_PACK = "org.elasticsearch.xpack"


def certificate_of(home: Path) -> Path:
    """The certificate of the node in that home, which is its own authority."""
    return home / "config" / "cert.pem"


def secure(spec: Spec, jars: Path, home: Path) -> list[str]:
    """The launcher's arguments, with a fresh certificate for localhost in the home; none for engines without a user."""
    if not spec.user:
        return []
    (home / "config").mkdir()
    _make_certificate(certificate_of(home))
    return _x_pack(jars) if spec.kind == "elasticsearch" else _opensearch_security(spec, jars, home / "config")


def _x_pack(jars: Path) -> list[str]:
    return [
        f"+{X_PACK}.core.XPackPlugin@{jars / 'x-pack-core'}",
        f"+{X_PACK}.security.Security<XPackPlugin@{jars / 'x-pack-security'}",
        f"bootstrap.password={PASSWORD}",
        "xpack.license.self_generated.type=basic",
        "xpack.security.enabled=true",
        "xpack.security.transport.ssl.enabled=false",
        "xpack.security.http.ssl.enabled=true",
        "xpack.security.http.ssl.certificate=cert.pem",
        "xpack.security.http.ssl.key=key.pem",
    ]


def _opensearch_security(spec: Spec, jars: Path, config: Path) -> list[str]:
    shutil.copytree(jars / "security" / "config", config / "opensearch-security")
    shutil.copy(spec.folder / "internal_users.yml", config / "opensearch-security")
    layers = [f"plugins.security.ssl.{layer}" for layer in ("transport", "http")]
    files = {"pemcert_filepath": "cert.pem", "pemkey_filepath": "key.pem", "pemtrustedcas_filepath": "cert.pem"}
    return [
        "+org.opensearch.security.OpenSearchSecurityPlugin",
        *(f"{layer}.{key}={file}" for layer in layers for key, file in files.items()),
        "plugins.security.ssl.transport.enforce_hostname_verification=false",
        "plugins.security.ssl.http.enabled=true",
        "plugins.security.nodes_dn=[CN=localhost]",
        "plugins.security.allow_default_init_securityindex=true",
        "plugins.security.restapi.roles_enabled=[all_access]",
        "plugins.security.audit.type=noop",
    ]


def _make_certificate(certificate: Path) -> None:
    if not shutil.which("openssl"):
        raise Missing("the secured engines need the command openssl on the PATH to make a certificate")
    extensions = (
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign",
        "extendedKeyUsage=serverAuth,clientAuth",
    )
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    added = [part for extension in extensions for part in ("-addext", extension)]
    run([*request, *added, "-keyout", certificate.with_name("key.pem"), "-out", certificate])
