"""What stands below a table: seeds, meanings of the metrics, and what one needs to make the rows again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from scan_lightning.callbacks.record import LIBRARIES
from scan_lightning.callbacks.results import MEANINGS
from scan_lightning.reports.groups import Group
from scan_lightning.reports.layout import MetricLayout
from scan_lightning.reports.rows import ResultRow

_SHORT_HASH = 8
_SHORT_COMMIT = 12


def seed_note(groups: Sequence[Group], *, marked: bool) -> str:
    """Say over how many seeds the numbers are.

    Args:
        groups: At least one.
        marked: Whether best values are marked.

    Returns:
        One line.
    """
    bold = "; bold is the best mean, however close the next" if marked else ""
    seeds = [tuple(group.rows) for group in groups]
    if len(set(seeds)) > 1:
        least, most = min(map(len, seeds)), max(map(len, seeds))
        count = f"{least} to {most} seeds" if least < most else f"{most} seeds each, not the same ones"
        return f"Mean ± sample standard deviation over {count}{bold}."
    if len(seeds[0]) > 1:
        return f"Mean ± sample standard deviation over {len(seeds[0])} seeds ({', '.join(seeds[0])}){bold}."
    return f"One run each, seed {seeds[0][0] or 'unknown'}: nothing is known of the spread over seeds."


def meaning_notes(metrics: Iterable[str], layouts: Mapping[str, MetricLayout]) -> tuple[str, ...]:
    """Explain metrics.

    Args:
        metrics: Names of columns.
        layouts: How they are shown.

    Returns:
        One line with all that have a meaning to tell; none if none has.
    """
    texts = []
    for name in dict.fromkeys(metrics):
        meaning = layouts[name].meaning or MEANINGS.get(name)
        texts += [f"{layouts[name].title}: {meaning}"] if meaning else []
    return (f"{'; '.join(texts)}.",) if texts else ()


def images_note(rows: Sequence[ResultRow]) -> tuple[str, ...]:
    """Say by which recipe and on how many images the rows were measured, where they tell.

    Args:
        rows: Of a table.

    Returns:
        At most one line.
    """
    counts = sorted({int(row["images"]) for row in rows if row.get("images")})
    if not counts:
        return ()
    names = _different(row.get("name", "") for row in rows)
    by = f" by {names[0]}" if len(names) == 1 else ""
    return (f"Measured{by} on {' or '.join(f'{count:,}' for count in counts)} images.",)


def provenance_note(rows: Sequence[ResultRow]) -> str:
    """Tell what the rows were measured with; values that differ stand beside one another.

    Args:
        rows: With the columns of `callbacks.record.run_record`.

    Returns:
        One line: how many rows and configurations, commits (and whether there were changes), versions, hardware.
    """
    commits = _different(
        row.get("commit", "")[:_SHORT_COMMIT] + " with changes" * (row.get("dirty") == "1") for row in rows
    )
    several = f" ({len(commits)} different)" if len(commits) > 1 else ""
    parts = [f"commit {', '.join(commits) or 'unknown'}{several}"]
    for name in ("python", *LIBRARIES, "hardware"):
        found = _different(row.get(name, "") for row in rows)
        parts += [f"{name} {', '.join(found)}"] if found else []
    configurations = len(_different(row.get("config_hash", "") for row in rows))
    return f"Rows: {len(rows)}; configurations: {configurations}; {'; '.join(parts)}."


def configurations_note(groups: Sequence[Group], *, by_group: bool) -> str:
    """List the hashes of the configurations.

    Args:
        groups: Their rows have the column ``config_hash``.
        by_group: Whether to tell which is whose; else each is listed once.

    Returns:
        One line.
    """
    short = [[row.get("config_hash", "")[:_SHORT_HASH] or "unknown" for row in group.rows.values()] for group in groups]
    if not by_group:
        return f"Configuration hashes: {', '.join(_different(one for some in short for one in some))}."
    texts = [f"{group.label}: {' '.join(some)}" for group, some in zip(groups, short, strict=True)]
    return f"Configuration hashes by seed: {'; '.join(texts)}."


def _different(values: Iterable[str]) -> list[str]:
    """Keep the different texts that are not empty, in order."""
    return list(dict.fromkeys(value for value in values if value))
