"""``scan-lightning data hierarchy``."""

import importlib.util
import json
from pathlib import Path

import pytest
from miniature_wordnet import SYNSETS, write_wordnet

from scan_lightning.commands.data_hierarchy import RULES, agreements, main
from scan_lightning.data.benchmarks import load_benchmark
from scan_lightning.data.hierarchy_names import parents_by_name
from scan_lightning.data.hierarchy_proposals import ProposedParent
from scan_lightning.data.vocabulary import load_hierarchy
from scan_lightning.data.words import parse_words
from scan_lightning.models.pretrained import SHIPPED_SCAN
from scan_lightning.types import Vocabulary

HAS_NLTK = importlib.util.find_spec("nltk") is not None
needs_nltk = pytest.mark.skipif(not HAS_NLTK, reason="nltk is not installed")
WORDS = "armchair|easy chair, chair, seat, pool table, table"


@pytest.fixture(autouse=True)
def _no_wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine's nltk folders hold must not matter."""
    if HAS_NLTK:
        monkeypatch.setattr("nltk.data.path", [str(tmp_path / "nltk")])


@pytest.fixture
def _wordnet(tmp_path: Path, _no_wordnet: None) -> None:
    write_wordnet(tmp_path / "nltk", SYNSETS)


def parents_in(path: Path) -> dict[str, list[str]]:
    """The hierarchy of a file."""
    return dict(json.loads(path.read_text("utf-8"))["parents"])


@needs_nltk
@pytest.mark.usefixtures("_wordnet")
def test_auto_takes_names_and_wordnet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "parents.json"
    assert main(["--words", WORDS, "--output", str(path)]) == 0
    content = json.loads(path.read_text("utf-8"))
    assert content["parents"] == {"armchair": ["chair", "seat"], "chair": ["seat"], "pool table": ["table"]}
    assert content["reasons"]["armchair"]["chair"] == "WordNet: armchair.n.01 is a chair.n.01, 1 up"
    assert load_hierarchy(path, parse_words(WORDS)).parents == {0: (1, 2), 1: (2,), 3: (4,)}
    printed = capsys.readouterr()
    assert "4 parents for 3 of 5 classes, by names and wordnet" in printed.out
    assert "head noun: 'table' of 'pool table'" in printed.out
    assert printed.err == ""


def test_auto_without_wordnet_and_clip_takes_names_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--words", WORDS, "--output", str(tmp_path / "p.json")]) == 0
    assert parents_in(tmp_path / "p.json") == {"pool table": ["table"]}
    error = capsys.readouterr().err
    assert "going by names alone" in error
    assert "scan-lightning[wordnet]" in error


def test_auto_without_wordnet_takes_the_clip_given(
    tmp_path: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--words", WORDS, "--clip", str(clip_folder), "--threshold", "-1"]
    assert main([*arguments, "--output", str(tmp_path / "p.json")]) == 0
    printed = capsys.readouterr()
    assert "by names and text" in printed.out
    assert "going by names and text alone" in printed.err
    reasons = json.loads((tmp_path / "p.json").read_text("utf-8"))["reasons"]
    assert reasons["pool table"]["table"].startswith("head noun")
    assert any(reason.startswith("text similarity") for found in reasons.values() for reason in found.values())


@needs_nltk
@pytest.mark.usefixtures("_wordnet")
def test_clip_that_is_not_used_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--words", WORDS, "--clip", "tiny", "--output", str(tmp_path / "p.json")]) == 0
    assert "the CLIP is not used" in capsys.readouterr().err


def test_text_alone_with_the_shipped_clip_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "red disc, blue disc, red square, grass, sky, water"
    assert main(["--words", words, "--method", "text", "--output", str(tmp_path / "p.json")]) == 0
    assert "give --clip or --weights" in capsys.readouterr().err
    assert load_hierarchy(tmp_path / "p.json", parse_words(words)).num_classes == 6


def test_weights_of_a_saved_network_give_the_clip(tmp_path: Path) -> None:
    outputs = []
    for name, source in (("a", ["--weights", str(SHIPPED_SCAN)]), ("b", ["--clip", "tiny"])):
        path = tmp_path / f"{name}.json"
        assert main(["--words", WORDS, "--method", "text", *source, "--output", str(path)]) == 0
        outputs.append(path.read_text("utf-8"))
    assert outputs[0] == outputs[1]


def test_words_of_a_file_and_rules_in_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.txt").write_text("table\npool table, billiard table\n")
    arguments = ["--words-file", str(tmp_path / "words.txt"), "--method", "text,names", "--clip", "tiny"]
    assert main([*arguments, "--output", str(tmp_path / "p.json")]) == 0
    assert parents_in(tmp_path / "p.json") == {"pool table": ["table"]}
    assert "by names and text" in capsys.readouterr().out


def test_benchmark_gives_a_file_over_its_own_names_and_its_agreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a150.json"
    assert main(["--benchmark", "a150", "--method", "names", "--output", str(path)]) == 0
    benchmark = load_benchmark("a150")
    hierarchy = load_hierarchy(path, benchmark.vocabulary())
    pairs = {(child, parent) for child, parents in hierarchy.parents.items() for parent in parents}
    released = benchmark.hierarchy()
    assert released is not None
    shared = sum(parent in released.parents.get(child, ()) for child, parent in pairs)
    row = next(line for line in capsys.readouterr().out.splitlines() if "A-150" in line)
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    total = sum(map(len, released.parents.values()))
    assert cells[:5] == ["A-150", "names", str(len(pairs)), str(total), str(shared)]
    assert cells[6] == f"{100 * shared / len(pairs):.1f} %"
    assert cells[7] == f"{100 * shared / total:.1f} %"


def test_benchmark_without_a_table_has_no_agreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--benchmark", "voc20", "--method", "names", "--output", str(tmp_path / "p.json")]) == 0
    printed = capsys.readouterr().out
    assert "0 parents for 0 of 20 classes" in printed
    assert "Agreement" not in printed


@pytest.mark.parametrize("against", ["released", "cleaned"])
def test_agreement_alone_compares_the_three_tables(against: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--agreement", "--method", "names", "--against", against]) == 0
    printed = capsys.readouterr().out
    assert f"Agreement with the {against} SG-IoU tables" in printed
    for key in ("a150", "a847", "pc459"):
        benchmark = load_benchmark(key)
        table = benchmark.hierarchy("cleaned" if against == "cleaned" else "released")
        assert table is not None
        row = next(line for line in printed.splitlines() if f"{benchmark.paper_name} " in line)
        assert row.split("│")[4].strip() == str(sum(map(len, table.parents.values())))


def test_agreements_have_a_row_for_all_rules_together() -> None:
    benchmark = load_benchmark("a150")
    table = benchmark.hierarchy()
    assert table is not None

    def released_backwards(vocabulary: Vocabulary) -> list[ProposedParent]:
        assert vocabulary.synonyms[1] == ("building",)
        return [
            ProposedParent(child=parent, parent=child, reason="")
            for child, parents in table.parents.items()
            for parent in parents
        ]

    found = agreements(benchmark, table, {"names": parents_by_name, "text": released_backwards})
    assert list(found) == ["names", "text", "names + text"]
    assert found["text"].reversed >= 31
    assert found["text"].shared == 1  # one half of the mutual pair
    assert found["names + text"].shared >= found["names"].shared


def test_every_rule_has_its_line_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f"  {rule} ") for line in lines) for rule in RULES)


def test_file_that_may_be_edited_is_replaced_only_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.json"
    path.write_text("edited by hand")
    arguments = ["--words", WORDS, "--method", "names", "--output", str(path)]
    assert main(arguments) == 1
    assert "p.json exists" in capsys.readouterr().err
    assert path.read_text() == "edited by hand"
    assert main([*arguments, "--overwrite"]) == 0
    assert parents_in(path) == {"pool table": ["table"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected words"),
        (["--words", "a, b"], "got no --output"),
        (["--agreement", "--output", "x.json"], "got no words"),
        (["--words", "a, a", "--output", "x.json"], "'a' is given twice"),
        (["--benchmark", "a151", "--output", "x.json"], "got 'a151'"),
        (["--words-file", "none.txt", "--output", "x.json"], "no file none.txt"),
        (["--words", "a, b", "--output", "x.json", "--method", "text", "--clip", "ViT-B-16"], "--clip-weights"),
        (["--words", "a, b", "--output", "x.json", "--method", "text", "--clip", "ViT-X"], "--clip-weights"),
        (["--words", "a, b", "--output", "x.json", "--clip-weights", "openai"], "expected --clip with it"),
        (["--words", "a, b", "--output", "x.json", "--method", "text", "--weights", "none"], "config.json"),
        (["--words", "a, b", "--output", "x.json", "--method", "text", "--threshold", "2"], "threshold: expected"),
        (["--words", "a, b", "--output", "x.json", "--method", "wordnet"], "scan-lightning[wordnet]"),
    ],
)
def test_wrong_call_is_told_and_writes_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("scan-lightning data hierarchy: ")
    assert message in error
    assert not (tmp_path / "x.json").exists()


def test_unknown_rule_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--words", "a, b", "--output", "x.json", "--method", "names,magic"])
    assert "expected auto, or some of names, wordnet, text" in capsys.readouterr().err
