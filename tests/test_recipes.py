"""The paper's recipes: their numbers, their overlays, and one optimiser step at full size on a miniature of COCO."""

import json
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from data.miniature import write_original
from PIL import Image

from scan_lightning.callbacks.plan import Schedule
from scan_lightning.cli import read_recipe
from scan_lightning.commands.plan import count_images, data_of, network_of, schedule_of
from scan_lightning.data.transforms import EvaluationTransform, TrainingTransform
from scan_lightning.losses.mask_classification import LossConfig
from scan_lightning.models.clip import ClipConfig
from scan_lightning.models.footprint import build_hollow
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.scan import Scan, ScanConfig
from scan_lightning.models.segmenter import SegmenterConfig
from scan_lightning.models.semantic_integration import SemanticIntegrationConfig
from scan_lightning.models.text import TextFeatures
from scan_lightning.optim import OptimizerConfig

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
BACKBONES = ("vit_b16", "vit_l14")
OVERLAYS = [EXPERIMENTS / "trainer" / f"{name}.yaml" for name in ("cpu", "gpu1", "gpu8")]
RELEASED = json.loads((Path(__file__).parent / "parity" / "config.json").read_text("utf-8"))
PUBLISHED_SWIN = "microsoft/swin-base-patch4-window12-384-in22k"


def recipe(backbone: str) -> Path:
    return EXPERIMENTS / f"scan_{backbone}.yaml"


def read(*files: Path) -> Any:
    return read_recipe(["fit", *(f"--config={file}" for file in files)])


def given(backbone: str) -> dict[str, Any]:
    """What the recipe's file says of the module."""
    content: dict[str, Any] = yaml.safe_load(recipe(backbone).read_text("utf-8"))["model"]["init_args"]
    return content


def test_network_of_vit_b16_is_the_default() -> None:
    """The defaults of the classes are the paper's, so the complete file must say the same."""
    clip = ClipConfig(model="ViT-B-16", weights="datacomp_xl_s13b_b90k")
    assert network_of(read(recipe("vit_b16"))) == ScanConfig(
        clip=clip, segmenter=SegmenterConfig(weights=PUBLISHED_SWIN)
    )


def test_network_of_vit_l14_differs_in_clip_alone() -> None:
    small, large = network_of(read(recipe("vit_b16"))), network_of(read(recipe("vit_l14")))
    clip = ClipConfig(model="ViT-L-14", weights="datacomp_xl_s13b_b90k")
    assert large == replace(
        small, clip=clip, semantic_integration=SemanticIntegrationConfig(layers=(12, 18, 24), sigmas=(9.0, 7.0, 3.0))
    )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_is_the_default(backbone: str) -> None:
    said = given(backbone)
    assert LossConfig(**said["loss"]) == LossConfig()
    assert said["loss"].keys() == vars(LossConfig()).keys(), "a complete recipe says every number"
    assert OptimizerConfig(**said["optimizer"]) == OptimizerConfig()
    assert said["optimizer"].keys() == vars(OptimizerConfig()).keys()
    data = data_of(read(recipe(backbone)))
    assert data.train_transform == TrainingTransform()
    assert data.eval_transform == EvaluationTransform()
    assert data.vocabulary.num_classes == data.training_vocabulary.num_classes == 171


@pytest.mark.parametrize("backbone", BACKBONES)
def test_numbers_are_those_of_the_released_configuration(backbone: str) -> None:
    """As the reference of the tests has recorded them, where its tiny network did not change them."""
    released, said = RELEASED["resolved"]["MODEL"], given(backbone)
    former, segmenter, loss = released["MASK_FORMER"], said["network"]["segmenter"], said["loss"]
    overridden = {key for key in RELEASED["overrides"] if key.startswith("MODEL.")}
    pairs = {
        "MASK_FORMER.NUM_OBJECT_QUERIES": (former["NUM_OBJECT_QUERIES"], segmenter["num_queries"]),
        "MASK_FORMER.CLASS_WEIGHT": (former["CLASS_WEIGHT"], loss["class_weight"]),
        "MASK_FORMER.MASK_WEIGHT": (former["MASK_WEIGHT"], loss["mask_weight"]),
        "MASK_FORMER.DICE_WEIGHT": (former["DICE_WEIGHT"], loss["dice_weight"]),
        "MASK_FORMER.NO_OBJECT_WEIGHT": (former["NO_OBJECT_WEIGHT"], loss["no_object_weight"]),
        "MASK_FORMER.OVERSAMPLE_RATIO": (former["OVERSAMPLE_RATIO"], loss["oversample_ratio"]),
        "MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": (former["IMPORTANCE_SAMPLE_RATIO"], loss["importance_ratio"]),
        "CLIP_ADAPTER.TEXT_TEMPLATES": (released["CLIP_ADAPTER"]["TEXT_TEMPLATES"], said["network"]["template_set"]),
    }
    assert not overridden & {f"MODEL.{key}" for key in pairs}
    assert {key: ours for key, (_, ours) in pairs.items()} == {key: theirs for key, (theirs, _) in pairs.items()}


@pytest.mark.parametrize(("backbone", "layers"), [("vit_b16", (1, 3, 5)), ("vit_l14", (1, 3, 5, 7, 9))])
def test_settings_are_those_that_stand_in_the_released_files(backbone: str, layers: tuple[int, ...]) -> None:
    said = InferenceSettings(**given(backbone)["inference"] | {"replace_layers": layers})
    assert tuple(given(backbone)["inference"]["replace_layers"]) == layers
    assert said == InferenceSettings(mask_threshold=0.4, ensemble_weight=0.7, replace_ratio=0.15, replace_layers=layers)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_trainer_is_the_papers(backbone: str) -> None:
    trainer = read(recipe(backbone)).trainer
    assert (trainer.max_steps, trainer.max_epochs) == (120000, -1)
    assert (trainer.gradient_clip_val, trainer.gradient_clip_algorithm) == (0.01, "norm")
    loggers = {logger.class_path.rsplit(".", 1)[-1]: logger.init_args for logger in trainer.logger}
    assert loggers.keys() == {"CSVLogger", "WandbLogger"}
    assert loggers["WandbLogger"].offline is True
    callbacks = {callback.class_path.rsplit(".", 1)[-1]: callback.get("init_args") for callback in trainer.callbacks}
    assert {"PlanCallback", "LearningRateMonitor", "ModelCheckpoint", "ResultsCallback"} <= callbacks.keys()
    assert callbacks["ModelCheckpoint"].every_n_train_steps == 5000
    assert callbacks["ModelCheckpoint"].save_last is True


@pytest.mark.parametrize("overlay", [None, *OVERLAYS], ids=lambda path: path.stem if path else "alone")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_effective_batch_is_the_papers_with_every_overlay(backbone: str, overlay: Path | None) -> None:
    config = read(recipe(backbone), *([overlay] if overlay else []))
    data = data_of(config)
    schedule = schedule_of(config, data, count_images(data)[0])
    assert (schedule.effective_batch, schedule.steps) == (32, 120000)
    assert schedule.epochs == pytest.approx(120000 * 32 / 118287, rel=1e-3)


def test_overlays_are_short() -> None:
    found = [*(EXPERIMENTS / "trainer").glob("*.yaml"), *(EXPERIMENTS / "train").glob("*.yaml")]
    assert set(OVERLAYS) <= set(found)
    assert {path.name: lines for path in found if (lines := len(path.read_text("utf-8").splitlines())) > 15} == {}


def test_warm_start_replaces_the_weights_alone() -> None:
    plain, warm = recipe("vit_b16"), EXPERIMENTS / "train" / "warm_start.yaml"
    network = network_of(read(plain, warm))
    assert str(network.segmenter.weights).startswith("facebook/mask2former-swin-base")
    assert replace(network, segmenter=replace(network.segmenter, weights=PUBLISHED_SWIN)) == network_of(read(plain))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_number_of_the_network_has_a_source(backbone: str) -> None:
    """The head explains three marks; every section that holds numbers carries one, in the section or at the number."""
    text = recipe(backbone).read_text("utf-8")
    for mark in ("[R] ", "[C] ", "[M] "):
        assert mark in text.split("seed_everything")[0]
    for line in (
        "max_steps:",
        "gradient_clip_val:",
        "clip:",
        "segmenter:",
        "layers: [",
        "sigmas:",
        "loss:",
        "optimizer:",
    ):
        (found,) = [row for row in text.splitlines() if row.strip().startswith(line)]
        above = text.splitlines()[text.splitlines().index(found) - 1]
        assert re.search(r"\[[RCM]\]", found) or (above.strip().startswith("#") and re.search(r"\[[RCM]\]", above)), (
            line
        )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_network_is_built(backbone: str) -> None:
    """On the meta device, so nothing is read or allocated; CLIP's own widths and layers fit SIM's."""
    scan = build_hollow(network_of(read(recipe(backbone))))
    width, dim, grid = {"vit_b16": (768, 512, 14), "vit_l14": (1024, 768, 16)}[backbone]
    assert (scan.clip.width, scan.clip.embed_dim, scan.clip.grid) == (width, dim, grid)
    assert scan.segmenter.embedding_head[2].out_features == dim
    scan.clip.check_layers(InferenceSettings(**given(backbone)["inference"]).replace_layers, "replace_layers")


def test_schedule_of_eight_processes() -> None:
    config = read(recipe("vit_b16"), EXPERIMENTS / "trainer" / "gpu8.yaml")
    data = data_of(config)
    assert schedule_of(config, data, 118287) == Schedule(
        images=118287, batch=4, processes=8, accumulation=1, max_steps=120000, max_epochs=-1
    )


def write_coco(root: Path) -> None:
    """Two images of COCO's usual size with 12 of its classes each, as the publishers lay them out."""
    folder = write_original("coco_stuff_171", root, count=2, size=(480, 640))
    for path in sorted((folder / "stuffthingmaps").rglob("*.png")):
        rng = np.random.default_rng(list(path.stem.encode()))
        blocks = rng.choice([0, 2, 15, 60, 92, 100, 110, 123, 140, 148, 156, 168], (4, 4)).astype(np.uint8)
        Image.fromarray(blocks.repeat(120, 0).repeat(160, 1)).save(path)


FULL_SIZE = """
trainer:
  max_steps: 1
  log_every_n_steps: 1
  accumulate_grad_batches: 1
  enable_progress_bar: false
  logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: outputs}}
  callbacks:
    - class_path: scan_lightning.callbacks.PlanCallback
    - class_path: lightning.pytorch.callbacks.LearningRateMonitor
model:
  init_args:
    network:
      clip: {weights: null}
      segmenter: {weights: null}
      template_set: single
    text_cache: null
    export_to: null
data:
  init_args: {root: data, num_workers: 0}
"""


@pytest.mark.slow
def test_full_size_step_of_vit_b16_on_a_miniature_of_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe as it is, but for random weights, one step of one image, and one prompt per word instead of 14."""
    write_coco(tmp_path / "data")
    (tmp_path / "full.yaml").write_text(FULL_SIZE, "utf-8")
    files = [recipe("vit_b16"), EXPERIMENTS / "trainer" / "cpu.yaml", Path("full.yaml")]
    done = subprocess.run(
        [sys.executable, "-m", "scan_lightning", "fit", *(f"--config={file}" for file in files)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("plan: ", "done: "))]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    with capsys.disabled():
        print(*said, f"peak of the whole process: {peak:.2f} GiB", sep="\n")
    assert said[0] == "plan: 135.6 M trainable and 149.6 M frozen parameters"
    assert said[1] == "plan: effective batch 1 = 1 image x 1 process x 1 accumulated pass"
    assert said[-1].startswith("done: 1 step in ")
    (log,) = (tmp_path / "outputs").rglob("metrics.csv")
    rows = log.read_text("utf-8").splitlines()
    assert any(name.startswith("lr-AdamW") for name in rows[0].split(","))
    assert 4 < peak < 14


@pytest.mark.slow
def test_full_size_forward_pass_of_vit_l14(capsys: pytest.CaptureFixture[str]) -> None:
    config = network_of(read(recipe("vit_l14")))
    config = replace(config, clip=replace(config.clip, weights=None), segmenter=replace(config.segmenter, weights=None))
    torch.manual_seed(0)
    scan = Scan(config=config).eval()
    text = TextFeatures(torch.nn.functional.normalize(torch.randn(171, 768), dim=-1), torch.arange(171), 171)
    image = torch.randint(0, 256, (1, 3, 640, 640), dtype=torch.uint8)
    with torch.no_grad():
        output = scan(image, [(640, 640)], text)
    assert output.class_logits[-1].shape == (1, 100, 172)
    assert output.mask_logits[-1].shape == (1, 100, 160, 160)
    assert len(output.image_tokens) == 25
    assert output.image_tokens[-1].shape == (1, 257, 1024)
    assert all(torch.isfinite(x).all() for x in (output.class_logits[-1], output.mask_logits[-1]))
    with capsys.disabled():
        print(f"peak so far: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
