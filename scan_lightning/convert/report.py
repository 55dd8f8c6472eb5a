"""What a conversion did: what it read and wrote, what found no use, what it had to assume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The record of one conversion.

    Attributes:
        what: What the weights are: "SCAN", "Mask2Former" or "CLIP".
        source: What was read.
        output: What was written.
        tensors: Number of tensors that were translated.
        parameters: Numbers in them.
        dtypes: How many tensors have each dtype.
        unused: Names in the source for which the network has no place.
        kept: Names beyond the network that the folder keeps, so that going back loses nothing.
        missing: Names that the network needs and the source lacks; only a failed conversion has them.
        assumptions: What the source does not tell and was taken as usual, a sentence each.
    """

    what: str
    source: str
    output: str
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    unused: Sequence[str] = ()
    kept: Sequence[str] = ()
    missing: Sequence[str] = ()
    assumptions: Sequence[str] = ()


class IncompleteCheckpointError(ValueError):
    """A checkpoint lacks tensors that the network needs.

    Args:
        report: The conversion as far as it came.
    """

    def __init__(self, report: Conversion) -> None:
        names = ", ".join(report.missing[:3]) + (", ..." if len(report.missing) > 3 else "")
        super().__init__(f"{report.source}: {len(report.missing)} tensors of the network are missing: {names}")
        self.report = report


def summarize(
    what: str,
    source: str | Path,
    output: Path,
    tensors: Mapping[str, Tensor],
    *,
    unused: Sequence[str] = (),
    kept: Sequence[str] = (),
    missing: Sequence[str] = (),
    assumptions: Sequence[str] = (),
) -> Conversion:
    """Count what was translated.

    Args:
        what: As in `Conversion`.
        source: As there.
        output: As there.
        tensors: What was translated.
        unused: As there.
        kept: As there.
        missing: As there.
        assumptions: As there.

    Returns:
        The record.
    """
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    return Conversion(
        what=what,
        source=str(source),
        output=str(output),
        tensors=len(tensors),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        dtypes=dict(dtypes.most_common()),
        unused=list(unused),
        kept=list(kept),
        missing=list(missing),
        assumptions=list(assumptions),
    )
