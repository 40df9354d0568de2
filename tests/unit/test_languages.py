"""Texts in another language are left alone, and nothing is mistaken for one."""

import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sidecar import languages
from sidecar.errors import OtherLanguage
from sidecar.languages import _NO_LANGUAGE, check, identifier, other
from sidecar.model_files import location
from sidecar.setting_types import LANGUAGES
from sidecar.settings import Settings
from sidecar.types import Outcome
from sidecar.v1 import rerank_pb2 as pb
from tests.conftest import Serve, settings

ENGLISH = ("en",)
FOREIGN = {
    "de": "Welche Apfelsorten lassen sich im Winter am besten im Keller lagern, und wie lange halten sie sich?",
    "es": "Las manzanas tardías se conservan en un lugar fresco y oscuro hasta la primavera siguiente.",
    "fr": "Les pommes d'hiver se gardent à la cave jusqu'au printemps si elles sont saines et sèches.",
    "ru": "Зимние сорта яблок хранят в прохладном подвале до самой весны, перекладывая их соломой.",
    "zh": "冬季苹果应存放在阴凉通风的地窖中。这样可以保存到第二年春天。并且要经常检查有没有腐烂的果实。",
    "ja": "冬りんごは涼しい地下室に保存すれば春まで持ちますが、傷んだものはすぐに取り除いてください。",
}


@pytest.mark.parametrize("language", FOREIGN)
def test_another_language_is_told(language: str) -> None:
    assert other(FOREIGN[language], ENGLISH).startswith(language)
    assert other(FOREIGN[language], (language, "zh", "yue", "wuu")) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "iPhone 15 Pro Max 256GB",
        "SKU-8841-XK / 12V 40Ah AGM / part no. 00123-99 REV.B, SKU-8842-XK, SKU-8843-XK",
        "Samsung Galaxy S21 Ultra 5G 128GB Phantom Black; Sony WH-1000XM4; Bosch GSR 18V-60 C; Lego 75192",
        "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
        "the godfather part ii 1974 al pacino robert de niro crime drama",
        "def main(arguments: Sequence[str] | None = None) -> None: return parser.parse_args(arguments)",
        "Nürnberger Bratwurst recipe: how to grill a sausage the way they do it in Franconia",
    ],
)
def test_names_numbers_code_and_loan_words_are_not_mistaken(text: str) -> None:
    assert other(text, ENGLISH) == ""


def test_query_and_first_passages_are_looked_at() -> None:
    check("apples in winter", [["an english passage about apples and how they are stored over the winter"]], ENGLISH)
    with pytest.raises(OtherLanguage, match="the texts are in 'de', and the policy's model is for en") as caught:
        check("Äpfel im Winter", [[FOREIGN["de"]], [FOREIGN["de"]]], ENGLISH)
    assert caught.value.outcome == Outcome.SKIPPED


@pytest.mark.parametrize(
    ("query", "language"),
    [
        ("Wie kann ich mein Passwort zurücksetzen, wenn ich es vergessen habe?", "de"),
        ("какие яблоки", "ru"),
        ("冬季苹果", "zh"),
    ],
)
def test_a_query_in_another_language_over_texts_that_the_model_is_for(query: str, language: str) -> None:
    english = [["apples and pears that keep well in a cool cellar over the winter and into the spring"]] * 3
    with pytest.raises(OtherLanguage, match=f"the query is in '{language}', and the policy's model is for en"):
        check(query, english, ENGLISH)
    assert not languages.pass_at_once(query, english, ENGLISH)
    check(query, english, ("en", language))


@pytest.mark.parametrize(
    "query",
    [
        "μ-opioid receptor",
        "αβγδ",
        "\uff49\uff30\uff48\uff4f\uff4e\uff45 \uff11\uff15",  # full width, as an input method writes Latin
        "apple",
        "β",
        "Bramley Boskoop Jonagold Elstar Braeburn Pinova Topaz",
        "São Paulo Rio de Janeiro Belo Horizonte Brasília flights",
        "Gabriel García Márquez Cien años de soledad review",
        "Crème brûlée tarte tatin pot-au-feu bouillabaisse recipes",
        "Bayern München Borussia Dortmund Bayer Leverkusen Eintracht Frankfurt",
        "Escherichia coli Staphylococcus aureus Pseudomonas aeruginosa Klebsiella pneumoniae",
        "spaghetti alla carbonara penne all'arrabbiata tiramisù recipe",
    ],
)
def test_a_query_that_says_little_of_its_language_is_not_mistaken(query: str) -> None:
    check(query, [["apples and pears that keep well in a cool cellar over the winter"]] * 3, ENGLISH)


def test_the_codes_of_the_settings_are_those_of_the_identifier() -> None:
    assert {str(label) for label in identifier().labels} - {_NO_LANGUAGE} == LANGUAGES


@pytest.mark.parametrize("wrong", [["english"], "en", ["EN"]])
def test_a_code_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="languages"):
        Settings.model_validate({"policies": {"p": {"text": {"fields": ["x"]}, "languages": wrong}}})


async def test_a_copy_of_the_bundled_model_is_for_what_that_one_is_for(serve: Serve, tmp_path: Path) -> None:
    shutil.copyfile(Path(location("bundled"), "config.json"), tmp_path / "config.json")
    texts = [FOREIGN["ru"], FOREIGN["ru"][::-1]]
    copied = settings({"model": "copy"}, models={"copy": {"checkpoint": str(tmp_path)}})
    async with serve(configured=copied) as (client, _):
        reply = await client.rerank("яблоки зимой", texts)
    assert (reply.outcome, reply.reason) == (pb.OUTCOME_SKIPPED, pb.REASON_LANGUAGE)


async def test_without_a_temporary_directory_it_starts_and_says_what_it_cannot_tell(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose whole file system is read-only; once there is one, all is well."""

    def failing() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    foreign = [FOREIGN["ru"], FOREIGN["ru"][::-1]]
    plain = ["the apples of this orchard keep well and are sold with pears", "pears"]
    with capture_logs() as logged, monkeypatch.context() as patched:
        patched.setattr(languages, "identifier", failing)
        async with serve() as (client, _):
            untold = await client.rerank("яблоки зимой", foreign)
            english = await client.rerank("which of the apples", plain)
            patched.undo()
            told = await client.rerank("яблоки зимой", foreign)
    assert (untold.outcome, untold.reason) == (pb.OUTCOME_ORIGINAL_ORDER, pb.REASON_MODEL_ERROR)
    assert "the language of the texts could not be identified" in untold.meta.detail
    assert english.outcome == pb.OUTCOME_RERANKED
    assert told.reason == pb.REASON_LANGUAGE
    (line,) = [one for one in logged if one["event"] == "language_identifier_failed"]
    assert "writable temporary directory" in line["advice"]


async def test_a_call_in_another_language_is_skipped_and_says_why(serve: Serve) -> None:
    texts = [FOREIGN["ru"], FOREIGN["ru"][::-1], "яблоки"]
    async with serve() as (client, _):
        reply = await client.rerank("яблоки зимой", texts)
        kept = [result.original_rank for result in reply.results]
        english = await client.rerank("apples", ["winter apples keep in a cool cellar until the spring", "pears"])
    assert (reply.outcome, reply.reason, kept) == (pb.OUTCOME_SKIPPED, pb.REASON_LANGUAGE, [0, 1, 2])
    assert "the policy's model is for en" in reply.meta.detail
    assert english.outcome == pb.OUTCOME_RERANKED
    async with serve(configured=settings({"languages": None})) as (client, _):
        assert (await client.rerank("яблоки зимой", texts)).outcome == pb.OUTCOME_RERANKED
