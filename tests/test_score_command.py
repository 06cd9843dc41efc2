"""`harness score`: its options against sacrebleu and the data set `masks`, several systems, and its forms."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sacrebleu.metrics import BLEU, CHRF, TER
from typer.testing import CliRunner

from harness.cli.app import app
from harness.datasets.masks.masks import Masks, MasksOptions
from harness.evaluation.segmentation import AnnotatedMasks
from harness.evaluation.systems import read_system
from harness.evaluation.translation import ReferenceTexts
from harness.metrics import bleu
from harness.stages.score import score as score_predictions
from harness.statistics.holm import holm

RUNNER = CliRunner()
TOKENIZERS = [
    *("13a", "intl", "zh", "char", "none"),
    *(
        pytest.param(
            name, marks=pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is absent")
        )
        for name, package in (("ja-mecab", "MeCab"), ("ko-mecab", "mecab_ko"))
    ),
]
LATIN = "The quick brown fox—it's 3,5% (of) U.S. \"dogs\", &amp; naïve cafés… don't e-mail x@y.org!"
WORDS = {
    "latin": LATIN.split(),
    "chinese": list("我们今天去北京看长城，天气很好。你呢？3月5日"),
    "japanese": ["東京", "タワー", "は", "とても", "高い", "です", "。", "昨日", "見", "ました", "123"],
}


def harness(*arguments: object) -> Any:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def score(*arguments: object) -> dict[str, Any]:
    result = harness("score", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


# Translation


def corpus(generator: random.Random) -> tuple[list[str], list[list[str]]]:
    """Return hypotheses, and references [reference][sentence]. Some sentences are empty."""
    name = generator.choice(list(WORDS))
    joint = " " if name == "latin" else ""

    def sentence() -> list[str]:
        return generator.choices(WORDS[name], k=generator.choice([0, 1, 3, 8, 20]))

    def noisy(words: list[str]) -> str:
        kept = [word if generator.random() < 0.8 else generator.choice(WORDS[name]) for word in words]
        cut = generator.randrange(len(kept) + 1) if generator.random() < 0.3 else 0
        text = joint.join(kept[cut:] + kept[:cut])
        return text.upper() if generator.random() < 0.1 else text

    sentences = [sentence() for _ in range(generator.randint(1, 12))]
    references = [[noisy(words) for words in sentences] for _ in range(generator.randint(1, 4))]
    return [noisy(words) for words in sentences], references


def check_against_sacrebleu(folder: Path, seed: int, tokenize: str) -> None:
    generator = random.Random(f"{seed} {tokenize}")
    hypotheses, references = corpus(generator)
    lowercase = generator.random() < 0.5
    files = ReferenceTexts(
        [write(folder / f"ref{index}", lines) for index, lines in enumerate(references)], tokenize, lowercase
    )
    figures = read_system(files, write(folder / "hyp", hypotheses)).metrics
    oracles = {"bleu": BLEU(tokenize=tokenize, lowercase=lowercase), "chrf": CHRF(), "ter": TER()}
    for name, oracle in oracles.items():
        expected = oracle.corpus_score(hypotheses, references)
        # sacrebleu adds thirds as floating-point numbers if there are three references.
        tolerance = 1e-14 if name == "ter" and len(references) == 3 else 0
        assert figures[name].value == pytest.approx(expected.score, rel=tolerance, abs=0), (seed, name)
        assert figures[name].signature.startswith(str(oracle.get_signature()))


@pytest.mark.parametrize("tokenize", TOKENIZERS)
def test_random_corpora_score_as_with_sacrebleu(tmp_path: Path, tokenize: str) -> None:
    for seed in range(4):
        check_against_sacrebleu(tmp_path, seed, tokenize)


@pytest.mark.slow
@pytest.mark.parametrize("tokenize", TOKENIZERS)
def test_many_random_corpora_score_as_with_sacrebleu(tmp_path: Path, tokenize: str) -> None:
    for seed in range(200):
        check_against_sacrebleu(tmp_path, seed, tokenize)


@pytest.mark.parametrize("name", ["flores101", "flores200"])
def test_flores_tokenizers_score_as_with_sacrebleu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With a small model in place of that of the FLORES corpus, at the path that the message names."""
    sentencepiece = pytest.importorskip("sentencepiece")
    tokenizer_spm = pytest.importorskip("sacrebleu.tokenizers.tokenizer_spm")
    model = Path(tmp_path, "models", Path(tokenizer_spm.SPM_MODELS[name]["url"]).name)
    model.parent.mkdir()
    corpus_file = write(tmp_path / "corpus", [LATIN, "".join(WORDS["chinese"]), *WORDS["latin"]] * 3)
    with model.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus_file), model_writer=stream, vocab_size=70, hard_vocab_limit=False, minloglevel=2
        )
    for module in (bleu, tokenizer_spm):
        monkeypatch.setattr(module, "SACREBLEU_DIR", str(tmp_path))
    tokenizer_spm.TokenizerSPM.__call__.cache_clear()
    check_against_sacrebleu(tmp_path, 1, name)
    pieces = BLEU(tokenize=name).tokenizer("quick cafés")
    assert len(pieces.split()) > 2, "it divides words"


CHINESE = ["我们今天去北京看长城。", "天气很好，你呢？"]


def test_chinese_has_the_bleu_of_sacrebleus_tokenizers_for_it(tmp_path: Path) -> None:
    """65.1858 is what `sacrebleu -tok zh` and `-tok char` print; the default tokenizer gives 0 and a note."""
    hypotheses = write(tmp_path / "h", ["我喜欢吃苹果和香蕉", "今天天气很好我们去公园"])
    references = write(tmp_path / "r", ["我喜欢吃苹果和梨", "今天天气不错我们去公园"])
    arguments = ["translation", "--hypotheses", hypotheses, "--references", references, "--metric", "bleu"]
    for tokenize in ("zh", "char"):
        document = score(*arguments, "--tokenize", tokenize)
        assert round(document["metrics"]["bleu"]["value"], 4) == 65.1858
        assert document["notes"] == []
    document = score(*arguments)
    assert document["metrics"]["bleu"]["value"] == 0
    assert "--tokenize zh" in " ".join(document["notes"])


def test_text_without_spaces_is_noted_unless_its_tokenizer_divides_it(tmp_path: Path) -> None:
    texts = write(tmp_path / "text", CHINESE)
    arguments = ["translation", "--hypotheses", texts, "--references", texts, "--metric", "bleu"]
    document = score(*arguments)
    assert list(document["metrics"]) == ["bleu"]
    (note,) = document["notes"]
    assert "script without spaces" in note and "--tokenize zh" in note
    assert f"note: {note}" in " ".join(harness("score", *arguments).stderr.split("\n"))
    assert score(*arguments, "--tokenize", "zh")["notes"] == []


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('{"id": 1, "text": "a"}', "is a JSON object"),
        ("<seg id='1'>a</seg>", "is markup"),
        ("1\ta", "has a tab"),
    ],
)
def test_lines_that_are_no_plain_sentences_are_noted(tmp_path: Path, line: str, kind: str) -> None:
    references = write(tmp_path / "ref", ["a", "b"])
    notes = [
        score("translation", "--hypotheses", write(tmp_path / "h", lines), "--references", references)[
            "notes"
        ]
        for lines in ([line, line], [line, "b"])
    ]
    assert notes == [[f"{tmp_path}/h: every line {kind}; expected plain sentences"], []]


def test_tokenizers_that_are_unknown_or_lack_their_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = write(tmp_path / "text", ["a b"])
    arguments = ["score", "translation", "--hypotheses", texts, "--references", texts, "--tokenize"]
    unknown = harness(*arguments, "zh-char")
    assert unknown.exit_code == 2 and "unknown tokenizer 'zh-char'" in unknown.stderr
    monkeypatch.setattr(bleu, "SACREBLEU_DIR", str(tmp_path))
    missing = harness(*arguments, "flores200")
    assert missing.exit_code == 2
    assert str(tmp_path / "models" / "flores200sacrebleuspm") in missing.stderr.replace("\n", "")


# Several systems


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Path]:
    generator = random.Random(5)
    lines = [generator.choices(WORDS["latin"], k=12) for _ in range(60)]

    def system(share: float) -> list[str]:
        return [" ".join(word if generator.random() < share else "x" for word in words) for words in lines]

    return {
        name: write(tmp_path / f"{name}.txt", sentences)
        for name, sentences in {
            "ref": [" ".join(words) for words in lines],
            "good": system(0.9),
            "same": system(0.9),
            "bad": system(0.6),
        }.items()
    }


def test_several_systems_are_each_scored_and_compared_with_the_first(texts: dict[str, Path]) -> None:
    systems = [texts["good"], texts["same"], texts["bad"]]
    arguments = [argument for path in systems for argument in ("--hypotheses", path)]
    document = score("translation", *arguments, "--references", texts["ref"])
    assert list(document["systems"]) == [str(path) for path in systems]
    for path in systems:
        alone = score("translation", "--hypotheses", path, "--references", texts["ref"])
        assert document["systems"][str(path)] == {key: alone[key] for key in alone if key != "notes"}
    differences = document["differences"]
    assert list(differences) == [str(texts["same"]), str(texts["bad"])]
    values = {path: entry["metrics"]["bleu"]["value"] for path, entry in document["systems"].items()}
    for path, figures in differences.items():
        bleu = figures["bleu"]["difference"]
        assert bleu["value"] == pytest.approx(values[path] - values[str(texts["good"])])
        assert bleu["low"] < bleu["value"] < bleu["high"]
    bad, same = differences[str(texts["bad"])]["bleu"], differences[str(texts["same"])]["bleu"]
    assert bad["difference"]["high"] < 0 and bad["p"] < 0.01 < same["p"]
    assert [bad["p_adjusted"], same["p_adjusted"]] == holm([bad["p"], same["p"]])


def test_a_system_that_is_named_twice_is_refused(texts: dict[str, Path]) -> None:
    result = harness(
        *("score", "translation", "--references", texts["ref"]),
        *("--hypotheses", texts["good"], "--hypotheses", texts["good"]),
    )
    assert result.exit_code == 2 and "named twice" in result.stderr


def test_without_a_terminal_tables_are_tab_separated_and_signatures_occur_once(
    texts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(texts["ref"].parent)
    result = harness(
        *("score", "translation", "--references", texts["ref"], "--metric", "chrf", "--metric", "bleu"),
        *("--hypotheses", texts["good"], "--hypotheses", "bad.txt"),
    )
    header, *lines = result.stdout.splitlines()
    columns = header.split("\t")
    assert columns[:4] == ["metric", "system", "value [95% interval]", "n"]
    rows = [line.split("\t") for line in lines if "\t" in line]
    assert [row[:2] for row in rows] == [
        [metric, f"{system}.txt"] for metric in ("chrf", "bleu") for system in ("good", "bad")
    ]
    assert {row[3] for row in rows} == {"60"}
    assert [line for line in lines if "\t" not in line] == [
        line
        for line in lines
        if line.startswith(("signature of chrf: nrefs:1", "signature of bleu: nrefs:1"))
    ]


# Masks


def masks(folder: Path, labels: list[int], seed: int) -> Path:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(3):
        Image.fromarray(generator.choice(labels, (9, 12)).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    ("classes", "first", "ignore", "labels", "declared"),
    [
        ("3", 0, [], [0, 1, 2], {"classes": ["0", "1", "2"], "ignore": [255]}),
        ("a,b", 1, ["0"], [0, 1, 2], {"classes": ["a", "b"], "first_label": 1, "ignore": [0]}),
        ("a=7,b=8+9", 0, ["rest"], [3, 7, 8, 9], {"classes": {"a": 7, "b": [8, 9]}, "ignore": "rest"}),
        ("background=0,fg=255", 0, [], [0, 255], {"classes": {"background": 0, "fg": 255}}),
    ],
)
def test_labels_mean_the_same_as_in_the_data_set(
    tmp_path: Path, classes: str, first: int, ignore: list[str], labels: list[int], declared: dict[str, Any]
) -> None:
    """Pixels whose label is ignored are annotated, never predicted."""
    annotations = masks(tmp_path / "data/labels", labels, 0)
    masks(tmp_path / "data/images", [0], 0)
    predicted = [label for label in labels if str(label) not in ignore and label != 3]
    predictions = masks(tmp_path / "predictions", predicted, 1)
    files = AnnotatedMasks(annotations, classes, first, ignore)
    system = read_system(files, predictions)
    options = MasksOptions(root=tmp_path / "data", images="images", labels="labels", **declared)
    data = Masks(options, "test", "segmentation")
    expected = score_predictions(data, len(data), system.predictions, ["iou"])["iou"].scores
    assert files.classes == data.classes
    assert system.metrics.items() <= expected.metrics.items()
    assert system.per_class == expected.per_class
    assert ("foreground_iou" in system.metrics) == ("background" in data.classes)


def test_colours_are_classes(tmp_path: Path) -> None:
    """Two of four pixels are red; the prediction finds one: IoU 2/3 of black, 1/2 of red."""
    for name, red in (("gt", [[1, 1, 0, 0]]), ("pr", [[1, 0, 0, 0]])):
        pixels = np.array(red)[..., None] * np.array([128, 0, 0])
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    document = score(
        *("segmentation", "--annotations", tmp_path / "gt.png", "--predictions", tmp_path / "pr.png"),
        *("--classes", "black=#000000,red=#800000"),
    )
    assert document["metrics"]["miou"]["value"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert document["per_class"]["red"]["iou"]["value"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "9" * 20], f"expected 1 to 256 classes, found {'9' * 20}"),
        (["--classes", "a,a"], "different names separated by commas"),
        (["--classes", "a=1,b"], "a label for every class"),
        (["--classes", "a=1,b=1"], "duplicate label 1"),
        (["--classes", "a=1,b=#000000"], "found both"),
        (["--classes", "a=x"], "a value 0–255 or a colour"),
        (["--classes", "a=1", "--first-label", "2"], "without --first-label"),
        (["--classes", "2", "--ignore", "1"], "duplicate label 1"),
        (["--classes", "names.txt"], "a single class is always right; expected at least 2"),
    ],
)
def test_malformed_classes_are_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    folder = masks(tmp_path / "m", [0], 0)
    result = harness("score", "segmentation", "--annotations", folder, "--predictions", folder, *arguments)
    assert result.exit_code == 2
    assert f"error: --classes {arguments[1]}: " in result.stderr and message in result.stderr
