from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from scan_lightning.metrics import OpenMeanIoU, SegmentationMetrics, SemanticGuidedIoU

from .test_confusion import HIERARCHY, K, full_metric, images
from .test_open_miou import similarity_of

WORLD = 2
COUNTS = (5, 1)  # uneven shards; the second process without an image


def results(shard: slice, count: int) -> dict[str, Tensor]:
    """Every result of the metrics over a part of the images, and the local state after computing."""
    metrics = [full_metric(), SemanticGuidedIoU(hierarchy=HIERARCHY), OpenMeanIoU(similarity=similarity_of(K, 0))]
    scores, guided, similar = metrics
    assert isinstance(scores, SegmentationMetrics)
    for pair in images(count)[shard]:
        for metric in metrics:
            metric.update(*pair)
    found = {f"score/{name}": value for name, value in scores.compute().items()}
    found |= {f"class/{name}": value for name, value in scores.per_class().items()}
    found |= {"sg": guided.compute(), "sg/class": guided.per_class()}
    found |= {"open": similar.compute(), "open/class": similar.per_class()}
    return found | {"local": scores.confusion}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=WORLD)
    found = {count: results(slice(rank, None, WORLD), count) for count in COUNTS}
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_one_process_result(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=WORLD)
    shards = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]
    for count in COUNTS:
        expected = results(slice(None), count)
        total = expected.pop("local")
        local = [shard[count].pop("local") for shard in shards]
        assert torch.equal(local[0] + local[1], total), "computing must leave each process its own counts"
        assert not torch.equal(local[0], local[1])
        for shard in shards:
            assert shard[count].keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(shard[count][name], value, rtol=0, atol=0, equal_nan=True, msg=name)
