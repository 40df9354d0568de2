"""Which combinations of addresses and credentials are refused, and in which words."""

from pathlib import Path
from typing import Any

import pytest

from connectors.bad_option import BadOption
from connectors.elasticsearch import ElasticsearchConnector
from connectors.opensearch import OpenSearchConnector
from connectors.options import HttpOptions

HTTP, HTTPS = ("http://localhost:9200",), ("https://localhost:9200",)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hosts": ()}, "at least one URL"),
        ({"hosts": "http://localhost:9200"}, "a list"),
        ({"hosts": ("localhost:9200",)}, "is not a node's URL"),
        ({"hosts": ("ftp://localhost",)}, "is not a node's URL"),
        ({"hosts": ("http://",)}, "is not a node's URL"),
        ({"hosts": ("http://localhost:99999",)}, "cannot be read"),
        ({"hosts": ("http://[::1",)}, "cannot be read"),
        ({"hosts": ("http://ann:secret@localhost",)}, "`basic_auth`"),
        ({"hosts": HTTP, "basic_auth": ("a:b", "secret")}, "colon"),
        ({"hosts": ("http://localhost/?a=1",)}, "query or a fragment"),
        ({"hosts": HTTP + HTTPS}, "mixes http and https"),
        ({"hosts": HTTP, "max_attempts": 0}, "`max_attempts` is 0; it must be from 1 to 5"),
        ({"hosts": HTTP, "connections": 1025}, "`connections` is 1025"),
        ({"hosts": HTTP, "max_answer_mib": 0}, "`max_answer_mib` is 0; it must be from 1 to 1024"),
        ({"hosts": HTTP, "verify_certs": False}, "need https"),
        ({"hosts": HTTP, "ca_certs": "ca.pem"}, "need https"),
        ({"hosts": HTTPS, "ca_certs": "ca.pem", "verify_certs": False}, "nothing would be checked"),
        ({"hosts": HTTPS, "ca_certs": "no-such-file.pem"}, "does not exist"),
        ({"hosts": HTTPS, "client_cert": "no-such-file.pem"}, "`client_cert` names 'no-such-file.pem', which does not"),
        ({"hosts": HTTPS, "client_key": "key.pem"}, "which is not given"),
        ({"hosts": HTTPS, "client_key_password": "secret"}, "which is not given"),
        ({"hosts": HTTPS, "certificate_fingerprints": ["ab:cd"]}, "64 digits"),
        ({"hosts": HTTPS, "certificate_fingerprints": "a" * 64}, "is a list of them"),
        ({"hosts": HTTPS, "certificate_fingerprints": ["a" * 64], "verify_certs": False}, "nothing would be checked"),
        ({"hosts": HTTPS, "certificate_fingerprints": ["a" * 64], "ca_certs": "ca.pem"}, "not both"),
        ({"hosts": HTTP, "certificate_fingerprints": ["a" * 64]}, "need https"),
        ({"hosts": HTTP, "connect_timeout_s": 0}, "`connect_timeout_s` is 0"),
        ({"hosts": HTTP, "connect_timeout_s": float("nan")}, "`connect_timeout_s` is nan"),
        ({"hosts": HTTP, "api_key": "secret", "bearer_token": "secret"}, "give `api_key` or `bearer_token`, not both"),
    ],
)
def test_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        HttpOptions(**options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"hosts": ()}, "hosts"),
        ({"hosts": ("localhost:9200",)}, "hosts"),
        ({"hosts": HTTP, "verify_certs": False}, "hosts"),
        ({"hosts": HTTP, "connections": 0}, "connections"),
        ({"hosts": HTTP, "connect_timeout_s": 0}, "connect_timeout_s"),
        ({"hosts": HTTP, "basic_auth": ("a:b", "c")}, "basic_auth"),
        ({"hosts": HTTP, "bearer_token": "a b"}, "bearer_token"),
        ({"hosts": HTTP, "basic_auth": ("a", "b"), "api_key": "c"}, "api_key"),
        ({"hosts": HTTPS, "client_key_password": "x"}, "client_key_password"),
        ({"hosts": HTTPS, "client_cert": "no-such-file.pem"}, "client_cert"),
        ({"hosts": HTTPS, "certificate_fingerprints": ["ab:cd"]}, "certificate_fingerprints"),
        ({"hosts": HTTPS, "certificate_fingerprints": ["a" * 64], "ca_certs": "ca.pem"}, "ca_certs"),
        ({"hosts": HTTPS, "ca_certs": "ca.pem", "verify_certs": False}, "ca_certs"),
    ],
)
def test_the_error_names_the_option(options: dict[str, Any], key: str) -> None:
    with pytest.raises(BadOption) as caught:
        HttpOptions(**options)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("http://localhost:9200", "http://localhost:9200"),
        ("https://es.example.com/", "https://es.example.com:443"),
        ("http://es.example.com/a/b/", "http://es.example.com:80/a/b"),
        ("http://[::1]:9200", "http://[::1]:9200"),
    ],
)
def test_hosts_are_read(url: str, written: str) -> None:
    assert HttpOptions([url]).nodes[0].url == written


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(HttpOptions(HTTP, basic_auth=("ann", "secret")))


@pytest.mark.parametrize("api_key", ["", "secret\n", "sécret", "se cret"])
def test_an_api_key_is_one_word_of_ascii(api_key: str) -> None:
    with pytest.raises(ValueError, match="`api_key` is empty or holds") as caught:
        HttpOptions(HTTP, api_key=api_key)
    assert "cret" not in str(caught.value)


def test_an_api_key_excludes_a_password() -> None:
    with pytest.raises(ValueError, match="not both"):
        HttpOptions(HTTP, basic_auth=("ann", "secret"), api_key="c2VjcmV0")


def test_connectors_are_made_without_a_loop(tmp_path: Path) -> None:
    for options in (HttpOptions(HTTP), HttpOptions(HTTPS, verify_certs=False), HttpOptions(("http://a:1", "http://b"))):
        assert ElasticsearchConnector("one", options).name == "one"
        assert OpenSearchConnector("two", options).name == "two"
