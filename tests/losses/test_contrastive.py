"""The contrastive loss over several processes is that of one process with the whole batch."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from scan_lightning.losses.contrastive import contrastive_loss, text_number

WORLD = 2
TEXTS = ["star", "sky", "star", "ball", "sky", "red cross"]


class Towers(nn.Module):
    """Two linear towers and a scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(5, 4), nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, part: slice) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        images, texts = torch.randn(6, 5, generator=generator), torch.randn(6, 3, generator=generator)
        features = (F.normalize(self.image(images[part]), dim=-1), F.normalize(self.text(texts[part]), dim=-1))
        return contrastive_loss(*features, scale=self.scale.exp(), texts=TEXTS[part])


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=WORLD)
    towers = DistributedDataParallel(Towers())
    loss = towers(slice(rank * 3, rank * 3 + 3))
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in towers.module.named_parameters()}
    torch.save({"loss": loss.detach(), **gradients}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=WORLD)
    towers = Towers()
    loss = towers(slice(None))
    loss.backward()
    alone = [Towers()(slice(0, 3)).item(), Towers()(slice(3, 6)).item()]
    assert abs(sum(alone) / 2 - loss.item()) > 1e-3, "the test needs negatives from the other process"
    for rank in range(WORLD):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        torch.testing.assert_close(found.pop("loss"), loss.detach(), rtol=0, atol=1e-5)
        for name, parameter in towers.named_parameters():
            assert parameter.grad.abs().max() > 1e-4
            torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-5, msg=name)


def test_text_numbers_tell_texts_apart_and_do_not_change() -> None:
    assert text_number("sky") == text_number("sky") != text_number("Sky")
    assert 0 <= text_number("") < 2**63
    assert text_number("sky") == 6545407830040162956
