"""What a loading process does with the memory that it frees."""

from __future__ import annotations

import numpy as np

_LARGEST_KEPT = 32 * 2**20 - 2**16  # just below glibc's bound, with room for the block's header


def keep_freed_memory(worker: int = 0) -> None:
    """Let a loading process keep the memory that one sample frees for the next; a DataLoader's ``worker_init_fn``.

    glibc keeps freed blocks that are smaller than the largest one freed so far, and at most 32 MiB (mallopt(3),
    M_MMAP_THRESHOLD). Without a large one, every sample's arrays are handed back to the system and asked for again page
    by page, which took over a third of the loading time where it was measured. Other allocators are left as they are.

    Args:
        worker: Number of the loading process.
    """
    np.empty(_LARGEST_KEPT, dtype=np.uint8)  # freed at once
