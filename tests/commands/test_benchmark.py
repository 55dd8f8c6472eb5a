from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from scan_lightning.commands import benchmark_data, benchmark_semantic_map
from scan_lightning.commands.benchmark import main
from scan_lightning.commands.benchmark_data import PlainDataset, measure, plain_jitter, write_samples
from scan_lightning.commands.benchmark_semantic_map import MIB, WAYS, Cost, Problem
from scan_lightning.data.images import read_image, read_label
from scan_lightning.data.transforms import ColourJitter, TrainingTransform
from scan_lightning.types import IGNORE_INDEX

PROBLEM = Problem(classes=30, queries=5, size=(40, 50), output_size=(33, 61))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    return write_samples(tmp_path_factory.mktemp("samples"), 3)


def test_samples_are_of_cocos_size_and_weight(files: list[tuple[Path, Path]]) -> None:
    for image, label in files:
        assert Image.open(image).size == Image.open(label).size == (640, 480)
        assert Image.open(image).format == "JPEG"
        assert 120_000 < image.stat().st_size < 190_000
        assert 5 < len(np.unique(read_label(label))) <= benchmark_data.CLASSES


@pytest.mark.parametrize("sides", [(40,), (320, 640, 1280)])
def test_plain_loop_does_the_same_as_ours(files: list[tuple[Path, Path]], sides: tuple[int, ...]) -> None:
    """Without colours and flip the draws are the same, and so are the crops, but for the rounding of the window."""
    transform = TrainingTransform(shortest_sides=sides, colour_jitter=False, flip=False)
    plain = PlainDataset(files, transform)
    for index, (image, label) in enumerate(files):
        pixels, labels = plain[index]
        ours, truth = transform(read_image(image), read_label(label), np.random.default_rng([0, 0, index]))
        assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (3, 640, 640))
        assert (labels.dtype, tuple(labels.shape)) == (torch.int64, (640, 640))
        assert ((labels == IGNORE_INDEX).numpy() == (truth == IGNORE_INDEX)).all()
        assert (labels.numpy() == truth).mean() > 0.995
        assert np.abs(pixels.numpy().transpose(1, 2, 0).astype(int) - ours).max() <= 2


def test_plain_loop_flips_half(files: list[tuple[Path, Path]]) -> None:
    many = [files[0]] * 40
    crops = [
        PlainDataset(many, TrainingTransform(shortest_sides=(640,), crop_size=853, colour_jitter=False, flip=flip))
        for flip in (False, True)
    ]
    straight = crops[0][0][1]
    found = [crops[1][index][1] for index in range(40)]
    flipped = [not torch.equal(labels, straight) for labels in found]
    assert 10 < sum(flipped) < 30
    columns = straight[:640].flip(1)
    assert all(torch.equal(labels[:640], columns) for labels, other in zip(found, flipped, strict=True) if other)


def spread_of(jittered: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Quantiles of the mean colours and of their saturation."""
    means = np.array([image.reshape(-1, 3).mean(0) for image in jittered])
    values = np.column_stack([means, means.max(1) - means.min(1)])
    return np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9], axis=0)


def test_plain_jitter_has_the_distribution_of_ours() -> None:
    image = np.full((4, 4, 3), (160, 90, 70), np.uint8)
    jitter = ColourJitter()
    plain = spread_of([plain_jitter(image, np.random.default_rng(seed)) for seed in range(3000)])
    ours = spread_of([jitter(image, np.random.default_rng([1, seed])) for seed in range(3000)])
    assert np.abs(plain - ours).max() < 8
    assert (plain[-1] - plain[0]).min() > 40


def test_measure_takes_turns_and_leaves_the_first_out() -> None:
    order: list[str] = []

    class Named(torch.utils.data.Dataset[int]):
        def __init__(self, name: str) -> None:
            self.name = name

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> int:
            order.append(self.name)
            if index == 2:
                raise IndexError
            return index

    rates = measure([Named("a"), Named("b")], workers=0, repeats=2)
    assert "".join(order) == "bbaaaabbbbaa"
    assert [len(turns) for turns in rates] == [2, 2]
    assert all(rate > 0 for turns in rates for rate in turns)


@pytest.mark.parametrize("workers", [0, 1])
def test_benchmark_data_prints_both_loops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["data", "--images=2", "--repeats=1", f"--workers={workers}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ours = next(line for line in lines if "scan-lightning" in line).split("│")
    plain = next(line for line in lines if "plain PIL" in line).split("│")
    assert float(ours[2]) / float(plain[2]) == pytest.approx(float(ours[5]), rel=0.05)
    assert float(plain[5]) == 1


@pytest.mark.parametrize("size", [(40, 50), (33, 61)])
def test_ways_to_the_map_agree(size: tuple[int, int]) -> None:
    problem = Problem(classes=30, queries=5, size=(40, 50), output_size=size)
    labels = {name: way(problem)() for name, way in WAYS.items()}
    assert all(tuple(label.shape) == size for label in labels.values())
    assert (labels["tiles"] != labels["full tensor"]).float().mean() < 5e-3
    assert len(labels["tiles"].unique()) > 1


LARGE = Problem(classes=400, queries=4, size=(400, 500), output_size=(400, 500))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="needs a peak that can be reset")
def test_measured_memory_of_the_full_tensor_is_its_size() -> None:
    assert LARGE.full_bytes == 4 * 400 * 400 * 500
    full, tiles = (benchmark_semantic_map.measure(name, LARGE) for name in ("full tensor", "tiles"))
    assert 0.9 * LARGE.full_bytes < full.memory < 1.3 * LARGE.full_bytes
    assert 0.1 * full.memory < tiles.memory < 0.6 * full.memory
    assert full.seconds > 0


@pytest.mark.slow
def test_measure_all_runs_every_way_in_its_own_process() -> None:
    costs = benchmark_semantic_map.measure_all(LARGE)
    assert list(costs) == list(WAYS)
    assert costs["full tensor"].memory > 0.9 * LARGE.full_bytes
    assert costs["tiles"].memory < 0.6 * costs["full tensor"].memory


def test_benchmark_semantic_map_prints_every_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Problem] = []

    def costs(problem: Problem) -> dict[str, Cost]:
        seen.append(problem)
        return {name: Cost(memory=MIB * (index + 1), seconds=1.5) for index, name in enumerate(WAYS)}

    monkeypatch.setattr(benchmark_semantic_map, "measure_all", costs)
    monkeypatch.setenv("COLUMNS", "120")
    options = ["--classes=256", "--queries=7", "--height=32", "--width=64", "--output-width=90", "--device=cpu"]
    assert main(["semantic-map", *options]) == 0
    assert seen == [Problem(classes=256, queries=7, size=(32, 64), output_size=(32, 90))]
    out = capsys.readouterr().out
    full = next(line for line in out.splitlines() if "full tensor" in line).split("│")
    assert [part.strip() for part in full[2:5]] == ["3 MiB", "1.50", "1.50"]  # of 2 MiB
    assert "K x H x W in float32: 2 MiB" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "--workers=-1"], "workers: expected at least 0, got -1"),
        (["data", "--images=0"], "images: expected at least 1, got 0"),
        (["data", "--repeats=0"], "repeats: expected at least 1, got 0"),
        (["semantic-map", "--classes=0", "--device=cpu"], "classes: expected at least 1, got 0"),
        (["semantic-map", "--output-width=0", "--device=cpu"], "output_size: expected at least 1, got (640, 0)"),
    ],
)
def test_benchmark_wrong_number_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["frobnicate"]])
def test_benchmark_without_a_measurement_tells_which_there_are(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "MEASUREMENT" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what a machine without CUDA does")
def test_benchmark_without_cuda_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["semantic-map", "--device=cuda"]) == 1
    assert "device: expected a machine with CUDA, found none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"classes": 0}, {"queries": 0}, {"size": (0, 4)}, {"output_size": (4, -1)}], ids=str
)
def test_problem_wrong_number_raises(change: dict[str, Any]) -> None:
    options: dict[str, Any] = {"classes": 3, "queries": 3, "size": (8, 8), "output_size": (8, 8)}
    with pytest.raises(ValueError, match=f"{next(iter(change))}: expected at least 1, got"):
        Problem(**(options | change))
