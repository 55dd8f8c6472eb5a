"""``scan-lightning data hierarchy``: propose SG-IoU parents for any words, and compare with the released tables."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.text import Text

from scan_lightning.commands.console import make_table, output_console, print_line
from scan_lightning.data.benchmarks import Benchmark, load_benchmark
from scan_lightning.data.hierarchy_names import parents_by_name
from scan_lightning.data.hierarchy_proposals import ProposedParent, save_proposals, to_hierarchy, without_cycles
from scan_lightning.data.hierarchy_wordnet import WordNetNotFoundError, open_wordnet, parents_by_wordnet
from scan_lightning.data.words import load_words, parse_words
from scan_lightning.metrics.hierarchy_agreement import HierarchyAgreement, hierarchy_agreement
from scan_lightning.models.clip import SHIPPED_MODEL, ClipConfig, FrozenClip
from scan_lightning.models.hierarchy_text import DEFAULT_THRESHOLD, parents_by_similarity
from scan_lightning.models.pretrained import load_scan
from scan_lightning.models.text import TextBank
from scan_lightning.types import ClassHierarchy, Vocabulary

PROG = "scan-lightning data hierarchy"
RULES = ("names", "wordnet", "text")
"""What can propose parents, the most trusted first: of pairs that would form a cycle the later gives way."""
RELEASED = ("a150", "a847", "pc459")
"""The benchmarks that have a released table."""
SHOWN = 20
"""Proposals that are printed; all are in the file."""

Rule = Callable[[Vocabulary], list[ProposedParent]]

DESCRIPTION = """Propose parents of classes for SG-IoU: for each word more general words of the same list.

The result is a JSON file for people to correct: {"parents": {"armchair": ["chair"]}, "reasons": ...}. Rules:

  names    head nouns and plurals of the names: "pool table" is a "table"
  wordnet  hypernyms, read by nltk from its data folders (nothing is downloaded)
  text     similarity of CLIP's text features; the direction is a guess; needs a CLIP that knows the words

--method auto takes names and wordnet; without WordNet names and text, where --weights or --clip names a CLIP; else
names alone."""


def main(args: Sequence[str]) -> int:
    """Run ``scan-lightning data hierarchy``.

    Args:
        args: Arguments behind the command's name.

    Returns:
        Exit status: 0 for success, 1 if the call was wrong or a file could not be read or written, as reported.
    """
    options = _parser().parse_args(list(args))
    try:
        _run(options)
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    """Check the call, propose for the words, compare where asked to."""
    benchmark = load_benchmark(options.benchmark) if options.benchmark else None
    vocabulary = _vocabulary(options, benchmark)
    if vocabulary is None and not options.agreement:
        raise ValueError("expected words: give --words, --words-file or --benchmark, or --agreement to compare alone")
    if (vocabulary is None) != (options.output is None):
        missing = "--output" if options.output is None else "words (--words, --words-file or --benchmark)"
        raise ValueError(f"expected words together with --output, got no {missing}")
    if options.output is not None and options.output.exists() and not options.overwrite:
        raise ValueError(f"--output: {options.output} exists and may have been edited; --overwrite replaces it")
    rules = _rules(options)
    if vocabulary is not None:
        proposals = _propose(vocabulary, list(rules.values()))
        options.output.parent.mkdir(parents=True, exist_ok=True)
        save_proposals(proposals, vocabulary, options.output)
        _report(proposals, vocabulary, list(rules), options.output)
    compared = [load_benchmark(key) for key in RELEASED] if options.agreement else [benchmark] if benchmark else []
    _print_agreement(compared, rules, options.against)


def _vocabulary(options: argparse.Namespace, benchmark: Benchmark | None) -> Vocabulary | None:
    """Read the words of the call; None where there are none."""
    if benchmark is not None:
        return benchmark.vocabulary(names="split")
    if options.words_file is not None:
        return load_words(options.words_file)
    return None if options.words is None else parse_words(options.words)


def _rules(options: argparse.Namespace) -> Mapping[str, Rule]:
    """Choose and load the rules, in the order of trust."""
    if options.clip_weights is not None and options.clip is None:
        raise ValueError("--clip-weights: expected --clip with it, which names the architecture")
    has_clip = options.weights is not None or options.clip is not None
    names = options.method
    reader = None
    if names == ("auto",):
        try:
            reader = open_wordnet()
            names = ("names", "wordnet")
        except WordNetNotFoundError as error:
            names = ("names", "text") if has_clip else ("names",)
            print(f"{PROG}: going by {' and '.join(names)} alone. {error}", file=sys.stderr)
    elif "wordnet" in names:
        reader = open_wordnet()
    if has_clip and "text" not in names:
        print(f"{PROG}: going by {' and '.join(names)}, the CLIP is not used; --method takes text too", file=sys.stderr)
    found: dict[str, Rule] = {}
    for name in sorted(names, key=RULES.index):
        if name == "names":
            found[name] = parents_by_name
        elif name == "wordnet":
            found[name] = lambda vocabulary: parents_by_wordnet(vocabulary, reader)
        else:
            found[name] = _text_rule(_clip(options), options.threshold)
    return found


def _clip(options: argparse.Namespace) -> FrozenClip:
    """Load the CLIP whose text tower compares the words."""
    if options.weights is not None:
        return load_scan(options.weights).clip
    if options.clip is None:
        print(
            f"{PROG}: the shipped CLIP knows the words of the quickstart alone; give --clip or --weights for others",
            file=sys.stderr,
        )
    model = options.clip or SHIPPED_MODEL
    if model != SHIPPED_MODEL and not Path(model).is_dir() and options.clip_weights is None:
        raise ValueError(f"--clip: {model!r} is untrained without --clip-weights (an open_clip tag or a file)")
    return FrozenClip.from_config(ClipConfig(model=model, weights=options.clip_weights))


def _text_rule(clip: FrozenClip, threshold: float) -> Rule:
    """Make the rule that compares text features; one template is enough, since all words share it."""
    bank = TextBank(clip=clip, template_set="single")

    def propose(vocabulary: Vocabulary) -> list[ProposedParent]:
        pairs = parents_by_similarity(bank.encode(vocabulary), threshold=threshold)
        return [
            ProposedParent(child=pair.child, parent=pair.parent, reason=f"text similarity {pair.similarity:.2f}")
            for pair in pairs
        ]

    return propose


def _propose(vocabulary: Vocabulary, rules: Sequence[Rule]) -> list[ProposedParent]:
    """Apply the rules one after the other and drop what closes a cycle."""
    return without_cycles(proposal for rule in rules for proposal in rule(vocabulary))


def _report(proposals: Sequence[ProposedParent], vocabulary: Vocabulary, rules: Sequence[str], output: Path) -> None:
    """Print what was proposed, its beginning where it is long."""
    console = output_console()
    table = make_table("Proposed parents", [("class", "fold"), ("parent", "fold"), ("reason", "fold")])
    for proposal in proposals[:SHOWN]:
        texts = vocabulary.names[proposal.child], vocabulary.names[proposal.parent], proposal.reason
        shown = [text.encode(console.encoding, "backslashreplace").decode(console.encoding) for text in texts]
        table.add_row(*map(Text, shown))
    if len(proposals) > SHOWN:
        table.caption = f"and {len(proposals) - SHOWN} more"
    if proposals:
        console.print(table)
    children = len({proposal.child for proposal in proposals})
    counts = f"{len(proposals)} parents for {children} of {vocabulary.num_classes} classes"
    print_line(console, f"{counts}, by {' and '.join(rules)}, in {output}")


def _print_agreement(benchmarks: Sequence[Benchmark], rules: Mapping[str, Rule], against: str) -> None:
    """Print how each rule, and all together, agree with the tables of the benchmarks; nothing where there is none."""
    headings = [("benchmark", "left"), ("rules", "left")]
    headings += [(name, "right") for name in ("proposed", against, "shared", "reversed", "precision", "recall", "F1")]
    table = make_table(f"Agreement with the {against} SG-IoU tables, pairs of child and parent", headings)
    for benchmark in benchmarks:
        released = benchmark.hierarchy("cleaned" if against == "cleaned" else "released")
        if released is not None:
            for label, agreement in agreements(benchmark, released, rules).items():
                table.add_row(benchmark.paper_name, label, *_cells(agreement))
            table.add_section()
    if table.rows:
        console = output_console()
        console.print(table)
        mutual = ", and they hold mutual parents" if against == "released" else ""
        print_line(console, f"The tables were made by hand: many a true pair is not in them{mutual}.")


def agreements(
    benchmark: Benchmark, released: ClassHierarchy, rules: Mapping[str, Rule]
) -> dict[str, HierarchyAgreement]:
    """Compare what rules propose for a benchmark with its table.

    Args:
        benchmark: Whose words, split into synonyms, the rules get.
        released: Its table.
        rules: By name, the most trusted first.

    Returns:
        For each rule, and after them for all together ("names + text"), the agreement.
    """
    vocabulary = benchmark.vocabulary(names="split")
    found = {name: rule(vocabulary) for name, rule in rules.items()}
    if len(found) > 1:
        found[" + ".join(found)] = [proposal for proposals in found.values() for proposal in proposals]
    return {
        name: hierarchy_agreement(to_hierarchy(without_cycles(proposals), vocabulary.num_classes), released)
        for name, proposals in found.items()
    }


def _cells(agreement: HierarchyAgreement) -> list[str]:
    """Give a row's numbers: counts, and percent."""
    counts = (agreement.proposed, agreement.released, agreement.shared, agreement.reversed)
    shares = (agreement.precision, agreement.recall, agreement.f1)
    return [*map(str, counts), *("-" if math.isnan(share) else f"{100 * share:.1f} %" for share in shares)]


def _method(text: str) -> tuple[str, ...]:
    """Read rules between commas."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if names != ("auto",) and not set(names) <= set(RULES):
        raise argparse.ArgumentTypeError(f"expected auto, or some of {', '.join(RULES)} with commas, got {text!r}")
    return names


def _parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog=PROG, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--words", help='commas between classes, bars between synonyms: "chair, armchair, sofa|couch"')
    words.add_argument("--words-file", type=Path, metavar="FILE", help="a class per line, commas between its synonyms")
    words.add_argument("--benchmark", metavar="KEY", help="the words of a benchmark: a150, a847, pc459, ...")
    add("--output", type=Path, metavar="FILE", help="the JSON file to write")
    add("--overwrite", action="store_true", help="replace a file that exists")
    add("--method", type=_method, default=("auto",), metavar="RULES", help="auto, or rules with commas (auto)")
    clip = parser.add_mutually_exclusive_group()
    clip.add_argument("--weights", type=Path, metavar="FOLDER", help="text: the CLIP of a saved network")
    clip.add_argument("--clip", metavar="MODEL", help="text: an open_clip architecture or a folder")
    add("--clip-weights", metavar="WEIGHTS", help="text: weights for --clip, an open_clip tag or a file")
    add("--threshold", type=float, default=DEFAULT_THRESHOLD, help=f"text: least similarity ({DEFAULT_THRESHOLD})")
    add("--agreement", action="store_true", help="compare the rules with the released tables of a150, a847 and pc459")
    add("--against", choices=("released", "cleaned"), default="released", help="variant of those tables (released)")
    return parser
