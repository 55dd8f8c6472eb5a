"""Parents that the names themselves show: a pool table is a table, tables are a table."""

from __future__ import annotations

from collections.abc import Iterable

from scan_lightning.data.hierarchy_proposals import ProposedParent
from scan_lightning.types import Vocabulary

Phrase = tuple[str, ...]
_Holders = dict[Phrase, list[tuple[int, int]]]

PREPOSITIONS = frozenset({"at", "for", "from", "in", "of", "on", "to", "with"})
"""What ends the part of an English name that holds its head noun: a chest of drawers is a chest."""

_PLURALS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"), ("es", ""), ("s", ""))


def parents_by_name(vocabulary: Vocabulary) -> list[ProposedParent]:
    """Propose parents by the head nouns and plurals of English names.

    Two rules look at a class's first name (the further ones are often loose):

    - Head noun: a name of several words is below the class whose name is its end, "pool table" below "table"; of
      several such classes below the one with the longest name, and with "of" and its like the head stands before it.
    - Plural: "tables" is below "table". Which of the two is more general is a convention; one of them has to be.

    A name that is no class's first name may be another class's second; the class that has it earliest in its list is
    taken. The rules know nothing of meaning: a "fire place" would be a "place" and a "sea star" a "star". They do not
    open words ("armchair", "wall-brick").

    Args:
        vocabulary: The words.

    Returns:
        The proposals, children ascending.

    Example:
        >>> words = Vocabulary.from_words(["table", "pool table", "chest", "chest of drawers", "tables", "armchair"])
        >>> [(words.names[pair.child], words.names[pair.parent]) for pair in parents_by_name(words)]
        [('pool table', 'table'), ('chest of drawers', 'chest'), ('tables', 'table')]
    """
    exact: _Holders = {}
    singular: _Holders = {}
    for label, synonyms in enumerate(vocabulary.synonyms):
        for rank, name in enumerate(synonyms):
            phrase = _words(name)
            exact.setdefault(phrase, []).append((rank, label))
            for form in _singulars(phrase):
                singular.setdefault(form, []).append((rank, label))
    proposals: list[ProposedParent] = []
    for label, synonyms in enumerate(vocabulary.synonyms):
        phrase = _words(synonyms[0])
        own = {form for name in synonyms for form in _with_singulars(_words(name))}
        for parent in _earliest(_singulars(phrase), exact, label):
            reason = f"plural: {' '.join(phrase)!r} of {vocabulary.names[parent]!r}"
            proposals.append(ProposedParent(child=label, parent=parent, reason=reason))
        for head in _heads(phrase):
            if own & set(_with_singulars(head)):
                continue  # the class has this name itself
            found = _earliest([head], exact, label) or _earliest(_singulars(head), exact, label)
            found = found or _earliest(_with_singulars(head), singular, label)
            reason = f"head noun: {' '.join(head)!r} of {' '.join(phrase)!r}"
            proposals += [ProposedParent(child=label, parent=parent, reason=reason) for parent in found]
            if found:
                break
    return proposals


def _words(name: str) -> Phrase:
    """Split a name into lower-case words."""
    return tuple(name.lower().split())


def _singulars(phrase: Phrase) -> list[Phrase]:
    """List what a phrase could be the plural of; what is no word will not be found in the vocabulary."""
    *before, last = phrase
    return [
        (*before, last.removesuffix(plural) + singular)
        for plural, singular in _PLURALS
        if last.endswith(plural) and len(last) > len(plural) + 1 and not last.endswith("ss")
    ]


def _with_singulars(phrase: Phrase) -> list[Phrase]:
    """Give a phrase and what it could be the plural of."""
    return [phrase, *_singulars(phrase)]


def _heads(phrase: Phrase) -> list[Phrase]:
    """List the ends of a name that could be a more general name, the longest first."""
    stop = next((index for index, word in enumerate(phrase) if index and word in PREPOSITIONS), len(phrase))
    noun = phrase[:stop]
    return [noun[start:] for start in range(0 if stop < len(phrase) else 1, stop)]


def _earliest(phrases: Iterable[Phrase], holders: _Holders, label: int) -> list[int]:
    """Give the other classes that have one of the phrases earliest among their names, ascending."""
    found = {holder for phrase in phrases for holder in holders.get(phrase, []) if holder[1] != label}
    best = min((rank for rank, _ in found), default=0)
    return sorted(holder for rank, holder in found if rank == best)
