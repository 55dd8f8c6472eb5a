import inspect
import platform
import subprocess
import sys

import pytest

from scan_lightning.data.worker_memory import _LARGEST_KEPT, keep_freed_memory

FAULTS = """
import resource
import numpy as np
{function}
{call}
def sample():
    arrays = [np.full(size * 2**20, 1, np.uint8) for size in (3, 3, 3)]
for _ in range(3):
    sample()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    sample()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")
def test_freed_memory_is_kept_for_the_next_sample() -> None:
    """Page faults of ten samples of 9 MiB, in a process that has done nothing else."""
    function = f"_LARGEST_KEPT = {_LARGEST_KEPT}\n" + inspect.getsource(keep_freed_memory)
    faults = []
    for call in ("", "keep_freed_memory()"):
        code = FAULTS.format(function=function, call=call)
        faults.append(int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout))
    assert faults[1] < 0.1 * faults[0]
