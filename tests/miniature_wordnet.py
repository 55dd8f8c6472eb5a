"""A WordNet of a few nouns in the files of the real one (wndb(5WN)), for nltk's own reader."""

from collections.abc import Mapping, Sequence
from pathlib import Path

LEXNAMES = {
    "adj.all": 3,
    "adj.pert": 3,
    "adv.all": 4,
    "noun.Tops": 1,
    "noun.act": 1,
    "noun.animal": 1,
    "noun.artifact": 1,
    "noun.person": 1,
    "noun.quantity": 1,
}
"""Names of the lexicographer files, in the order of their numbers, with their parts of speech."""

Synset = tuple[str, Sequence[str], Sequence[str]]
"""Lexicographer file, lemmas, and the keys of the hypernyms."""


def write_wordnet(folder: Path, synsets: Mapping[str, Synset]) -> Path:
    """Write corpora/wordnet below a folder; the order of ``synsets`` is that of the senses of a word."""
    root = folder / "corpora" / "wordnet"
    root.mkdir(parents=True)
    for part in ("adj", "adv", "verb"):
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            (root / name).write_text("")
    lexnames = "".join(f"{number:02d}\t{name}\t{pos}\n" for number, (name, pos) in enumerate(LEXNAMES.items()))
    (root / "lexnames").write_text(lexnames)
    (root / "index.sense").write_text("")
    (root / "cntlist.rev").write_text("")
    (root / "noun.exc").write_text("leaves leaf\n")
    offsets = _offsets(synsets)
    (root / "data.noun").write_text("".join(_line(synset, offsets[key], offsets) for key, synset in synsets.items()))
    (root / "index.noun").write_text(_index(synsets, offsets))
    return root


def _line(synset: Synset, offset: int, offsets: Mapping[str, int]) -> str:
    """One synset as data.noun holds it."""
    lexname, lemmas, hypernyms = synset
    words = " ".join(f"{lemma} 0" for lemma in lemmas)
    pointers = "".join(f" @ {offsets[hypernym]:08d} n 0000" for hypernym in hypernyms)
    number = list(LEXNAMES).index(lexname)
    return f"{offset:08d} {number:02d} n {len(lemmas):02x} {words} {len(hypernyms):03d}{pointers} | a gloss  \n"


def _offsets(synsets: Mapping[str, Synset]) -> dict[str, int]:
    """Where each synset's line starts; no line's length depends on the offsets in it."""
    offsets: dict[str, int] = {}
    position = 0
    zeros = dict.fromkeys(synsets, 0)
    for key, synset in synsets.items():
        offsets[key] = position
        position += len(_line(synset, 0, zeros))
    return offsets


def _index(synsets: Mapping[str, Synset], offsets: Mapping[str, int]) -> str:
    """Index.noun: for each lemma the offsets of its senses, in order."""
    senses: dict[str, list[int]] = {}
    for key, (_, lemmas, _) in synsets.items():
        for lemma in lemmas:
            senses.setdefault(lemma.lower(), []).append(offsets[key])
    lines = []
    for lemma, places in sorted(senses.items()):
        numbers = " ".join(f"{place:08d}" for place in places)
        lines.append(f"{lemma} n {len(places)} 1 @ {len(places)} 0 {numbers}  \n")
    return "".join(lines)


SYNSETS: dict[str, Synset] = {
    "entity": ("noun.Tops", ["entity"], []),
    "artifact": ("noun.artifact", ["artifact"], ["entity"]),
    "furniture": ("noun.artifact", ["furniture"], ["artifact"]),
    "place": ("noun.act", ["seat"], ["entity"]),  # not concrete, so it does not count
    "bottom": ("noun.artifact", ["seat"], ["artifact"]),
    "seat": ("noun.artifact", ["seat"], ["furniture"]),
    "saddle": ("noun.artifact", ["seat"], ["artifact"]),  # a third concrete sense of "seat"
    "bicycle saddle": ("noun.artifact", ["bicycle_seat"], ["saddle"]),
    "chair": ("noun.artifact", ["chair"], ["seat"]),
    "armchair": ("noun.artifact", ["armchair"], ["chair"]),
    "array": ("noun.quantity", ["table", "array"], ["entity"]),
    "table": ("noun.artifact", ["table"], ["furniture"]),
    "desk": ("noun.artifact", ["desk"], ["table"]),
    "rack": ("noun.artifact", ["rack"], ["artifact"]),
    "coatrack": ("noun.artifact", ["coatrack", "hat-rack"], ["rack"]),
    "animal": ("noun.animal", ["animal"], ["entity"]),
    "horse": ("noun.animal", ["horse"], ["animal"]),
    "mount": ("noun.animal", ["mount"], ["horse"]),
    "mountain": ("noun.artifact", ["mountain", "mount"], ["entity"]),
    "person": ("noun.person", ["person"], ["entity"]),
    "worker": ("noun.person", ["cleaner", "worker"], ["person"]),
    "machine": ("noun.artifact", ["machine"], ["artifact"]),
    "cleaning machine": ("noun.artifact", ["cleaner"], ["machine"]),
    "plant": ("noun.Tops", ["plant"], ["entity"]),
    "leaf": ("noun.Tops", ["leaf"], ["plant"]),
    "egg": ("noun.animal", ["egg"], ["hen"]),  # a cycle, which no WordNet should have
    "hen": ("noun.animal", ["hen"], ["egg"]),
    "step one": ("noun.artifact", ["one"], ["machine"]),
    "step two": ("noun.artifact", ["two"], ["step one"]),
    "step three": ("noun.artifact", ["three"], ["step two"]),
    "step four": ("noun.artifact", ["four"], ["step three"]),
    "step five": ("noun.artifact", ["five"], ["step four"]),
}
"""Twenty-odd nouns, with senses that lead astray."""
