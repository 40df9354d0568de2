"""The loader tells every mistake with its line, its path and what is allowed, and shows no secret."""
# ruff: noqa: E501  (a table is read line by line)

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.configuration import ConfigurationError, load
from sidecar.connector_settings import ElasticsearchSettings, MemorySettings
from sidecar.secret import reveal
from sidecar.server_settings import ServerSettings
from sidecar.settings import Settings

VALID = """\
server:
  address: 127.0.0.1:0
  metrics_address: null
  max_message_mib: 64
connectors:
  es:
    type: elasticsearch
    hosts: ["https://localhost:9200"]
    basic_auth:
      username: elastic
      password: hunter2
    ca_certs: ca.pem
    allow_indices: [articles-*]
  local:
    type: memory
    indices:
      docs: docs.jsonl
models:
  default:
    checkpoint: bundled
    device: auto
    dtype: auto
    max_length: 512
policies:
  articles:
    match:
      - index: articles-*
        connector: es
    model: default
    rank_window_size: 100
    min_rank_window_size: 10
    budget_ms: 300
    text:
      fields:
        - name: title
          max_chars: 200
        - body
      passages:
        words: 100
        stride: 50
    fusion:
      method: linear
      model_weight: 0.8
    limits:
      rank_window_size: 1000
default_policy: articles
"""

TOP = "enabled, server, connectors, models, policies, default_policy"
POLICY = (
    "match, enabled, mode, percent, on_conflict, model, text, rank_window_size, min_rank_window_size, budget_ms, min_score, fusion, "
    "cosine, languages, order_cache_s, engine_timeout, limits"
)
TYPES = "elasticsearch, opensearch, memory"

# (what is replaced in VALID, by what, path, message); the fault is on the line where the replaced text begins.
MISTAKES = [
    # Unknown keys, at every level.
    ("server:", "sever:", "sever", f"unknown key; did you mean 'server'? allowed: {TOP}"),
    ("max_message_mib", "max_mesage_mib", "server.max_mesage_mib", "did you mean 'max_message_mib'? allowed: address, "),
    ("hosts:", "host:", "connectors.es.host", "did you mean 'hosts'? allowed: allow_indices, "),
    ("username:", "user:", "connectors.es.basic_auth.user", "did you mean 'username'? allowed: username, password"),
    ("password: hunter2", "password: {hunter2: 1}", "connectors.es.basic_auth.password", "allowed: env, file"),
    ("indices:\n", "indexes:\n", "connectors.local.indexes", "did you mean 'indices'? allowed: "),
    ("device:", "devise:", "models.default.devise", "did you mean 'device'? allowed: kind, checkpoint, "),
    ("budget_ms:", "budget:", "policies.articles.budget", f"did you mean 'budget_ms'? allowed: {POLICY}"),
    ("text:", "texts:", "policies.articles.texts", "did you mean 'text'? allowed: "),
    ("connector: es", "conector: es", "policies.articles.match.0.conector", "'connector'? allowed: index, connector"),
    ("fields:", "field:", "policies.articles.text.field", "did you mean 'fields'? allowed: fields, separator, sources, passages, nested, mean_of_top"),
    ("max_chars", "maxchars", "policies.articles.text.fields.0.maxchars", "allowed: name, label, max_chars"),
    ("words:", "word:", "policies.articles.text.passages.word", "allowed: words, stride, max_passages"),
    ("model_weight", "weight", "policies.articles.fusion.weight", "allowed: method, model_weight, normalize, rrf_k"),
    (
        "rank_window_size: 1000",
        "rank_windows_size: 1000",
        "policies.articles.limits.rank_windows_size",
        "did you mean 'rank_window_size'? allowed: rank_window_size, budget_ms, candidates, query_chars",
    ),
    # Values that are not among the allowed ones.
    ("type: elasticsearch", "type: elastic", "connectors.es.type", f"'elastic' is not allowed; allowed: {TYPES}"),
    ("type: elasticsearch", "typ: elasticsearch", "connectors.es.typ", f"did you mean 'type'? allowed types: {TYPES}"),
    ("device: auto", "device: gpu", "models.default.device", "'gpu' is not allowed; allowed: auto, cpu, cuda, cuda:N"),
    ("dtype: auto", "dtype: fp16", "models.default.dtype", "'fp16' is not allowed; allowed: auto, float32, bfloat16, "),
    (
        "method: linear",
        "method: linaer",
        "policies.articles.fusion.method",
        "'linaer' is not allowed; allowed: linear, rrf, replace",
    ),
    ("budget_ms: 300", "on_conflict: first", "policies.articles.on_conflict", "'first' is not allowed; allowed: default, strictest, refuse"),
    ("dtype: auto", "label: 2", "models.default.label", "2 is not allowed; allowed: 0, 1"),
    # Out of range.
    ("max_message_mib: 64", "max_message_mib: 0", "server.max_message_mib", "0 is out of range; allowed: 1..1024"),
    ("max_message_mib: 64", "names_ttl_s: 3601", "server.names_ttl_s", "3601 is out of range; allowed: 0..3600"),
    ("max_length: 512", "max_length: 8", "models.default.max_length", "8 is out of range; allowed: 16..32768"),
    ("budget_ms: 300", "budget_ms: -1", "policies.articles.budget_ms", "-1 is out of range; allowed: 1..600000"),
    ("model_weight: 0.8", "model_weight: 1.5", "policies.articles.fusion.model_weight", "1.5 is out of range; allowed: 0..1"),
    ("model_weight: 0.8", "model_weight: .nan", "policies.articles.fusion.model_weight", "nan is not a finite number; allowed: 0..1"),
    ("max_chars: 200", "max_chars: 0", "policies.articles.text.fields.0.max_chars", "0 is out of range; allowed: 1 or more"),
    ("hosts: [", "hosts: [] #", "connectors.es.hosts", "needs at least one entry"),
    ("username: elastic", 'username: ""', "connectors.es.basic_auth.username", "must not be empty"),
    # Another type.
    ("budget_ms: 300", "budget_ms: soon", "policies.articles.budget_ms", "'soon' is not a whole number; allowed: 1..600000"),
    ("budget_ms: 300", "budget_ms: 2.5", "policies.articles.budget_ms", "2.5 is not a whole number"),
    ("budget_ms: 300", "budget_ms: yes", "policies.articles.budget_ms", "true is not a number; allowed: 1..600000"),
    ("budget_ms: 300", "budget_ms: null", "policies.articles.budget_ms", "null is not a whole number"),
    ("budget_ms: 300", "budget_ms: [1]", "policies.articles.budget_ms", "a list is not a whole number"),
    ("budget_ms: 300", "enabled: maybe", "policies.articles.enabled", "'maybe' is neither true nor false; allowed: true, false"),
    ("model_weight: 0.8", "model_weight: much", "policies.articles.fusion.model_weight", "'much' is not a number"),
    ("default_policy: articles", "default_policy: 12", "default_policy", "12 is not text; text that looks like"),
    ("device: auto", "device: {a: 1}", "models.default.device", "a mapping is not text"),
    ("hosts: [", 'hosts: "http://a:1" # [', "connectors.es.hosts", "'http://a:1' is not a list"),
    ("server:\n  address: 127.0.0.1:0\n  metrics_address: null\n  max_message_mib: 64", "server: 5", "server", "5 is not a mapping"),
    ("  articles:\n    match", "  empty:\n  articles:\n    match", "policies.empty", "null is not a mapping"),
    ("budget_ms: 300", "languages: english", "policies.articles.languages", "'english' is not allowed; allowed: auto, null, list"),
    ("budget_ms: 300", "languages: 3", "policies.articles.languages", "3 is not a list"),
    ("budget_ms: 300", "languages: [en, xx]", "policies.articles.languages.1", "'xx' is "),
    # Missing.
    ("password: hunter2", "", "connectors.es.basic_auth", "the key 'password' is missing"),
    ("- index: articles-*\n        connector: es", "- connector: es", "policies.articles.match.0", "the key 'index' is missing"),
    # Values that only look right.
    ("127.0.0.1:0", "localhost", "server.address", "an address is `host:port`"),
    ('"https://localhost:9200"', "localhost:9200", "connectors.es.hosts", "'localhost:9200' is not a node's URL"),
    ('"https://localhost:9200"', '"https://localhost:99999"', "connectors.es.hosts", "has a port or an address that cannot be read"),
    ('hosts: ["https://localhost:9200"]', "max_attempts: 1", "connectors.es.hosts", "needs at least one entry"),
    ('"https://localhost:9200"', '"http://localhost:9200"', "connectors.es.hosts", "certificate options need https"),
    ("ca_certs: ca.pem", "certificate_fingerprints: [ab]", "connectors.es.certificate_fingerprints", "SHA-256 in hex: 64 digits"),
    ("ca_certs: ca.pem", "client_key: ca.pem", "connectors.es.client_key", "are about `client_cert`, which is not given"),
    ('hosts: ["https://localhost:9200"]', "cloud_id: nonsense", "connectors.es.cloud_id", "`cloud_id` cannot be read"),
    ("ca_certs: ca.pem", "cloud_id: 'a:YiRj'", "connectors.es.cloud_id", "give `hosts` or `cloud_id`, not both"),
    ("ca_certs: ca.pem", "connect_timeout_ms: 0", "connectors.es.connect_timeout_ms", "0 is out of range; allowed: 1..60000"),
    ("ca_certs: ca.pem", "compress: maybe", "connectors.es.compress", "'maybe' is neither true nor false; allowed: true, false"),
    ("ca_certs: ca.pem", "forward_authorization: 2", "connectors.es.forward_authorization", "2 is neither true nor false"),
    ("ca_certs: ca.pem", "aws: {region: x}", "connectors.es.aws", "unknown key"),
    ('"https://localhost:9200"', '"https://u:hunter2@h:1"', "connectors.es.hosts", "belong in `basic_auth`"),
    ("ca.pem", "cb.pem", "connectors.es.ca_certs", "there is no file"),
    ("ca.pem", "a" * 5000, "connectors.es.ca_certs", "there is no file"),
    ("docs.jsonl", "dosc.jsonl", "connectors.local.indices.docs", "there is no file"),
    ("bundled", "./model", "models.default.checkpoint", "there is no folder"),
    ("[articles-*]", '["articles-?"]', "connectors.es.allow_indices.0", "only `*` is special"),
    ("index: articles-*", "index: a,b", "policies.articles.match.0.index", "an index pattern holds no whitespace"),
    ("hunter2", "{env: SIDECAR_TEST_UNSET}", "connectors.es.basic_auth.password.env", "SIDECAR_TEST_UNSET is not set"),
    ("hunter2", "{}", "connectors.es.basic_auth.password", "give exactly one of `env` and `file`"),
    ("hunter2", "{file: nowhere}", "connectors.es.basic_auth.password", "there is no file"),
    ("hunter2", "12345", "connectors.es.basic_auth.password", "the value is not text"),
    # Between several keys.
    ("ca_certs: ca.pem", "api_key: hunter2", "connectors.es.api_key", "give `basic_auth` or `api_key`, not both"),
    ("ca_certs: ca.pem", "bearer_token: hunter2", "connectors.es.bearer_token", "give `basic_auth` or `bearer_token`, not both"),
    ("stride: 50", "stride: 101", "policies.articles.text.passages.stride", "101 is larger than `words` (100)"),
    ("rank_window_size: 100\n", "rank_window_size: 1001\n", "policies.articles.rank_window_size", "exceeds `limits.rank_window_size` (1000); allowed: 1..1000"),
    ("budget_ms: 300", "budget_ms: 5001", "policies.articles.budget_ms", "5001 exceeds `limits.budget_ms` (5000); allowed: 1..5000"),
    ("min_rank_window_size: 10", "min_rank_window_size: 101", "policies.articles.min_rank_window_size", "101 exceeds `rank_window_size` (100); allowed: 1..100"),
    # Names that are not defined.
    ("model: default", "model: defualt", "policies.articles.model", "'defualt' is not defined; did you mean 'default'? defined: default"),
    ("connector: es", "connector: ess", "policies.articles.match.0.connector", "did you mean 'es'? defined: es, local"),
    ("default_policy: articles", "default_policy: others", "default_policy", "'others' is not defined; defined: articles"),
    # What is wrong with the YAML, yet leaves something to go on with.
    ("budget_ms: 300", "model: x", "policies.articles.model", "is here a second time; the first is on line 29"),
    ("budget_ms: 300", "budget_ms: !ms 300", "policies.articles.budget_ms", "has a tag"),
    ("budget_ms: 300", "budget_ms: !!int x", "policies.articles.budget_ms", "is not a readable int"),
    ("budget_ms: 300", "<<: {budget_ms: 300}", "policies.articles", "`<<` is not supported"),
    ("budget_ms: 300", '"\\ud800": 1', "policies.articles", "a key must be plain text"),
    ("budget_ms: 300", "? [a]\n    : b", "policies.articles", "a key must be plain text"),
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A place for a configuration, with the files that VALID names beside it."""
    (tmp_path / "ca.pem").touch()
    (tmp_path / "docs.jsonl").touch()
    return tmp_path / "conf.yaml"


def faults_of(file: Path, content: str | bytes) -> list[str]:
    """The lines of the error that loading this content raises."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("old", "new", "path", "message"), MISTAKES)
def test_a_mistake_is_one_fault_with_line_path_and_what_is_allowed(
    file: Path, old: str, new: str, path: str, message: str
) -> None:
    line = VALID[: VALID.index(old)].count("\n") + 1
    if message == "the key 'password' is missing":
        line = 9  # that of its section
    if new == "max_attempts: 1":  # the key that is missing has no line
        line = 6
    faults = faults_of(file, VALID.replace(old, new, 1))
    [fault] = [fault for fault in faults if fault.startswith(f"{file}:{line}: {path}: ")]
    assert message in fault
    assert "hunter2" not in fault
    # Where a section has been renamed, names that pointed into it dangle; nothing else may follow from one mistake.
    assert all("is not defined" in other for other in faults if other is not fault)


def test_all_mistakes_are_told_at_once_by_line(file: Path) -> None:
    text = (
        VALID.replace("device: auto", "device: gpu").replace("mib: 64", "mib: 0").replace("model: default", "model: x")
    )
    assert faults_of(file, text) == [
        f"{file}:4: server.max_message_mib: 0 is out of range; allowed: 1..1024",
        f"{file}:21: models.default.device: 'gpu' is not allowed; allowed: auto, cpu, cuda, cuda:N",
        f"{file}:29: policies.articles.model: 'x' is not defined; defined: default, near",
    ]


def test_a_missing_section_is_told_on_the_line_of_its_mapping(file: Path) -> None:
    assert faults_of(file, "policies:\n  a:\n    enabled: true\n") == [
        f"{file}:2: policies.a: the key 'text' is missing"
    ]
    assert faults_of(file, "# nothing\nserver: {}\n") == [f"{file}:2: the key 'policies' is missing"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "{file}: is empty; `rerank-sidecar init` writes a file to start from"),
        ("# only a comment\n", "{file}: is empty;"),
        ("- a\n", "{file}:1: a list is not a mapping"),
        ("hunter2\n", "{file}:1: the file's content is not a mapping"),
        (b"a: \xff\n", "{file}: is not UTF-8 text (byte 4)"),
        (b"\x00" * 9, "{file}:1: the character U+0000 is not allowed in YAML"),
        (b"#" * (1 << 20) + b"#", "{file}: is larger than 1 MiB"),
        ("a: 1\n---\nb: 2\n", "{file}:2: not valid YAML: found another document at column 1"),
        ("a: [1, 2\nb: 3\n", "{file}:2: not valid YAML: expected ',' or ']', but got ':' at column 2"),
        ('a: 1\nb: "hunter2\n', "that began on line 2"),
        ("a:\n\tb: 1\n", "{file}:2: not valid YAML: found character '\\t' that cannot start any token at column 1"),
        ("password: *hunter2\n", "{file}:1: not valid YAML: found undefined alias (text that begins with *"),
        ("[" * 5000, "{file}: nested too deeply"),
        ("a: &a [*a]\n", "{file}:1: nested more than 50 levels deep"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"{key}: &{key} [{', '.join([f'*{before}'] * 10)}]\n" for before, key in zip("abcdefg", "bcdefgh", strict=True)),
            "more than 10000 values, those of aliases counted",
        ),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_as_yaml(file: Path, content: str | bytes, message: str) -> None:
    [fault] = faults_of(file, content)
    assert message.format(file=file) in fault
    assert "hunter2" not in fault


def test_a_missing_file_a_folder_and_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nope\.yaml: there is no such file; `rerank-sidecar init`"):
        load(tmp_path / "nope.yaml")
    with pytest.raises(ConfigurationError, match="is a folder, not a file"):
        load(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be read: File name too long"):
        load(tmp_path / ("x" * 300))


def test_the_valid_file_is_loaded_with_paths_beside_it(file: Path) -> None:
    file.write_text(VALID)
    settings = load(file)
    es, local = settings.connectors["es"], settings.connectors["local"]
    assert isinstance(es, ElasticsearchSettings)
    assert isinstance(local, MemorySettings)
    assert es.ca_certs == file.parent / "ca.pem"
    assert local.indices["docs"] == file.parent / "docs.jsonl"
    assert [field.name for field in settings.policies["articles"].text.fields] == ["title", "body"]
    assert settings.models["default"].checkpoint == "bundled"


@pytest.mark.parametrize(
    ("checkpoint", "is_local"), [("model", True), ("./model", True), ("bundled", False), ("org/model", False)]
)
def test_a_checkpoint_is_a_folder_beside_the_file_if_there_is_one(file: Path, checkpoint: str, is_local: bool) -> None:
    (file.parent / "model").mkdir()
    (file.parent / "bundled").mkdir()
    file.write_text(VALID.replace("bundled", checkpoint))
    found = load(file).models["default"].checkpoint
    assert found == (str(file.parent / "model") if is_local else checkpoint)


def test_secrets_come_from_text_a_variable_or_a_file_and_are_never_printed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDECAR_TEST_PASSWORD", "hunter2")
    (file.parent / "password").write_text("hunter2\n")
    for source in ("hunter2", "{env: SIDECAR_TEST_PASSWORD}", "{file: password}"):
        file.write_text(VALID.replace("hunter2", source))
        es = load(file).connectors["es"]
        assert isinstance(es, ElasticsearchSettings)
        assert es.basic_auth is not None
        assert reveal(es.basic_auth.password) == "hunter2"
        assert "hunter2" not in repr(es)


def test_keys_are_text_and_aliases_and_dates_are_accepted(file: Path) -> None:
    file.write_text(
        "\ufeffpolicies:\n"
        "  on: {text: &text {fields: [a]}, match: [{index: 2026-01-01}]}\n"
        "  2026: {text: *text, min_score: -1e1}\n"
    )
    settings = load(str(file))
    assert list(settings.policies) == ["on", "2026"]
    assert settings.policies["on"].match[0].index == "2026-01-01"
    assert settings.policies["on"].text == settings.policies["2026"].text
    assert settings.policies["2026"].min_score == -10


def test_a_fault_inside_an_alias_is_told_where_the_text_stands(file: Path) -> None:
    text = "policies:\n  a:\n    text: &text\n      fields: [a]\n      sep: x\n  b:\n    text: *text\n"
    assert [fault.split(": ")[:2] for fault in faults_of(file, text)] == [
        [f"{file}:5", "policies.a.text.sep"],
        [f"{file}:5", "policies.b.text.sep"],
    ]


def test_settings_made_in_code_check_names_as_well() -> None:
    with pytest.raises(ValueError, match=r"default_policy: 'b' is not defined; defined: a"):
        Settings.model_validate({"policies": {"a": {"text": {"fields": ["x"]}}}, "default_policy": "b"})


@pytest.mark.parametrize(
    ("role", "fault"),
    [
        ({"policies": ["b", "a*", "*"]}, "server.auth.roles.app.policies.0: 'b' is not defined; defined: a"),
        ({"connectors": ["e*", "main"]}, "server.auth.roles.app.connectors.1: 'main' is not defined; defined: none"),
        ({"policies": ["a", "later-*"], "connectors": []}, ""),
    ],
)
def test_what_a_role_names_exists_and_its_patterns_may_wait_for_what_is_to_come(
    role: dict[str, Any], fault: str
) -> None:
    auth = {"keys_env": "KEYS", "roles": {"app": role}}
    tree = {"policies": {"a": {"text": {"fields": ["x"]}}}, "server": {"auth": auth}}
    if not fault:
        assert Settings.model_validate(tree).server.auth
        return
    with pytest.raises(ValueError, match=re.escape(fault)):
        Settings.model_validate(tree)


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("reserve_ms: 300", "policies.articles.budget_ms: is 300, and `server.reserve_ms` takes 300"),
        ("max_queued_pairs: 99", "policies.articles.rank_window_size: 100 documents of up to 4 passages exceed"),
    ],
)
def test_what_would_never_be_reranked_is_told_where_the_policy_says_it(file: Path, setting: str, fault: str) -> None:
    [told] = faults_of(file, VALID.replace("max_message_mib: 64", setting))
    assert fault in told


TEXT = {"fields": ["x"]}


@pytest.mark.parametrize(
    ("models", "policy", "message"),
    [
        ({"a": {"threads": 1}, "b": {"threads": 2}}, {"model": "a"}, "models.b.threads: is 2: all models of a process"),
        ({"a": {"kind": "bi_encoder"}}, {"model": "a"}, "policies.p.model: 'a' is a bi_encoder; a policy's model"),
        ({"a": {}}, {"model": "a", "cosine": {"model": "a"}}, "policies.p.cosine.model: 'a' is a cross_encoder"),
        ({"a": {}}, {"model": "a", "cosine": {"model": "b"}}, "policies.p.cosine.model: 'b' is not defined"),
        ({"a": {"kind": "bi_encoder", "label": 1}}, {"model": "a"}, "label: is for a cross_encoder only"),
        ({"a": {"kind": "bi_encoder", "backend": "onnx"}}, {"model": "a"}, "backend: is for a cross_encoder only"),
        (
            {"a": {}},
            {"model": "a", "cosine": {"share": 0.3}, "fusion": {"method": "replace"}},
            "cosine: needs `fusion.method`",
        ),
    ],
)
def test_models_and_what_they_are_for(models: dict[str, Any], policy: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings.model_validate({"models": models, "policies": {"p": {"text": TEXT, **policy}}})


def test_what_is_dumped_can_be_read_again() -> None:
    for fusion in ("linear", "replace"):
        one = Settings.model_validate({"policies": {"p": {"text": TEXT, "fusion": {"method": fusion}}}})
        assert Settings.model_validate(one.model_dump()) == one


def test_the_bundled_bi_encoder_is_there_and_loaded_where_a_policy_uses_it() -> None:
    def loaded(**policy: Any) -> set[str]:
        return set(Settings.model_validate({"policies": {"p": {"text": TEXT, **policy}}}).loaded_models)

    assert loaded() == {"default", "near"}
    assert loaded(cosine=None) == loaded(fusion={"method": "replace"}) == loaded(cosine={"share": 0}) == {"default"}
    assert loaded(cosine={"share": 0, "order_rest": True}) == {"default", "near"}


def test_a_pattern_by_itself_matches_on_any_connector(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("policies:\n  all:\n    match: [a-*, {index: b}]\n    text: {fields: [body]}\n")
    assert [(one.index, one.connector) for one in load(file).policies["all"].match] == [("a-*", None), ("b", None)]


def test_two_ports_cannot_be_one() -> None:
    same = {"address": "127.0.0.1:7", "metrics_address": "127.0.0.1:7"}
    with pytest.raises(ValidationError, match="is where the gRPC server listens"):
        ServerSettings.model_validate(same)
    ServerSettings.model_validate({"address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"})
