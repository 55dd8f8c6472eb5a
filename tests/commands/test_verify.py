"""`scan-lightning verify` on the compact reference (tests/parity/README.md), and that it notices what is wrong."""

import json
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scan_lightning.commands import verify
from scan_lightning.verification.ledger import Ledger, Row, Stage
from scan_lightning.verification.reference import Reference, fill_omitted
from scan_lightning.verification.regions import drawn_again, wrong_selections

PARITY = Path(__file__).parents[1] / "parity"
SHARED = os.environ.get("SCAN_LIGHTNING_SHARED")

# What the compact folder leaves out; see its README.
SKIPPED = {
    "clip/tokens",
    "lfm/out",
    "lightweight/out",
    "infer/log/sem_seg",
    "batch/in_vocab",
    "train/logits",
    "train/points",
    "train/trainable",
    "train/grad_norms",
    "train/grad",
    "train/grad_largest",
    "iso/lightweight",
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and lose much where other processes want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.stage.name: row for row in verify.verify(Reference(PARITY))}


def altered(folder: Path, file: str, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A copy of the compact folder in which the tensors of one file are changed."""
    for path in PARITY.iterdir():
        if path.suffix in (".json", ".safetensors", ".md") and path.name != file:
            (folder / path.name).symlink_to(path)
    tensors = load_file(PARITY / file)
    change(tensors)
    save_file(tensors, folder / file)
    return folder


def verdict_line(output: str, stage: str) -> str:
    """The line of the printed table that tells of a stage."""
    return next(line for line in output.splitlines() if re.match(rf"\W*{re.escape(stage)}\s", line))


def test_verify_compact_folder_agrees(rows: dict[str, Row]) -> None:
    wrong = [f"{row.stage.name}: {row.error} {row.remark}" for row in rows.values() if row.verdict == "FAILED"]
    assert not wrong, "\n".join(wrong)
    assert {name for name, row in rows.items() if row.verdict == "skipped"} == SKIPPED
    assert sum(row.tensors for row in rows.values()) > 200


def test_verify_compact_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in PARITY.iterdir()) < 12_000_000


def test_verify_says_what_was_injected(rows: dict[str, Row]) -> None:
    assert "recorded lightweight/out as input" in rows["logits/in_vocab"].remark
    assert "recorded masks and selections" in rows["shift/clip_out"].remark
    assert "weights omitted" in rows["train/grad"].remark


def test_verify_only_writes_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "table.md"
    assert verify.main([str(PARITY), "--only", "text", "--output", str(output)]) == 0
    text = output.read_text("utf-8")
    assert f"torch {torch.__version__.split('+')[0]}" in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["text/tokenizer", "text/tokens", "text/features"]
    assert all(" passed " in line for line in table[2:])
    assert "metrics" not in capsys.readouterr().out


def test_verify_changed_weight_fails_and_names_the_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["oriclip_mlp.fc2.bias"][0] += 0.05

    folder = altered(tmp_path, "model.safetensors", change)
    assert verify.main([str(folder), "--only", "oriclip_mlp"]) == 1
    printed = capsys.readouterr()
    assert "FAILED" in verdict_line(printed.out, "oriclip_mlp/out")
    assert "oriclip_mlp/out failed: worst: img1/oriclip_mlp/out" in printed.err
    for stage, verdict in (("clip/final_cls", "passed"), ("fusion/out", "FAILED"), ("decoder/class_embed", "passed")):
        assert [row.verdict for row in verify.verify(Reference(folder), only=stage)] == [verdict]


@pytest.mark.parametrize(
    ("file", "tensor", "stage"),
    [
        ("metrics", "toy/sg/iou", "metrics/sg_classes"),
        ("isolated", "iso/ca/out", "iso/ca"),
        ("isolated", "iso/criterion/final/match0", "iso/criterion/match"),
        ("text", "text/tokens", "text/tokens"),
    ],
)
def test_verify_other_reference_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, tensor: str, stage: str
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[tensor] = tensors[tensor].nan_to_num() + 1

    assert verify.main([str(altered(tmp_path, f"{file}.safetensors", change)), "--only", stage]) == 1
    assert "FAILED" in verdict_line(capsys.readouterr().out, stage)


def test_verify_wrong_shape_fails(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["iso/ca/out"] = tensors["iso/ca/out"][:, :1].clone()
        tensors["iso/msdeform_core/value"] = tensors["iso/msdeform_core/value"][:, :1].clone()

    found = {
        row.stage.name: row
        for row in verify.verify(Reference(altered(tmp_path, "isolated.safetensors", change)), only="iso")
    }
    assert found["iso/msdeform_core"].verdict == "FAILED"
    assert "stopped by" in found["iso/msdeform_core"].remark


def test_verify_absent_input_is_skipped(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["iso/ca/memory"]
        tensors["iso/lfm_c/out"] = tensors["iso/lfm_c/out"][..., :1].clone()

    found = {
        row.stage.name: row
        for row in verify.verify(Reference(altered(tmp_path, "isolated.safetensors", change)), only="iso")
    }
    assert found["iso/ca"].verdict == "skipped"
    assert "iso/ca/memory" in found["iso/ca"].remark
    assert found["iso/lfm"].verdict == "FAILED"
    assert "shape" in found["iso/lfm"].remark
    assert found["iso/swin_block"].verdict == "passed"


def test_verify_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(tmp_path / "nowhere")]) == 1
    assert "no folder" in capsys.readouterr().err


def test_verify_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(tmp_path)]) == 1
    assert "no config.json" in capsys.readouterr().err


def test_verify_truncated_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = altered(tmp_path, "stages.safetensors", lambda _: None)
    content = (folder / "stages.safetensors").read_bytes()
    (folder / "stages.safetensors").write_bytes(content[: len(content) // 2])
    assert verify.main([str(folder)]) == 1
    assert "stages.safetensors: damaged" in capsys.readouterr().err


def test_verify_absent_weight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = altered(tmp_path, "model.safetensors", lambda tensors: tensors.pop("LFM.conv1.bias"))
    assert verify.main([str(folder)]) == 1
    assert "has no semantic_integration.enhancement.conv1.bias" in capsys.readouterr().err


def test_verify_weight_of_another_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["LFM.conv1.bias"] = torch.zeros(3)

    assert verify.main([str(altered(tmp_path, "model.safetensors", change))]) == 1
    assert "does not fit config.json" in capsys.readouterr().err


def test_verify_configuration_that_is_not_supported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = altered(tmp_path, "text.safetensors", lambda _: None)
    config = json.loads((PARITY / "config.json").read_text("utf-8"))
    config["resolved"]["MODEL"]["CLIP_ADAPTER"]["MASK_MATTING"] = True
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert verify.main([str(folder)]) == 1
    assert "MASK_MATTING" in capsys.readouterr().err


def test_verify_unknown_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(PARITY), "--only", "nothing"]) == 1
    assert "backbone" in capsys.readouterr().err


def test_verify_nothing_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = altered(tmp_path, "isolated.safetensors", dict.clear)
    assert verify.main([str(folder), "--only", "iso/ca"]) == 1
    assert "Nothing could be compared" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="SCAN_LIGHTNING_SHARED names no folder")
def test_verify_complete_folder_agrees(tmp_path: Path) -> None:
    found = verify.verify(Reference(Path(str(SHARED)) / "parity"))
    assert [f"{row.stage.name}: {row.remark}" for row in found if row.verdict != "passed"] == []


def entry(measure: str, ours: Tensor, recorded: Tensor) -> Row:
    ledger = Ledger([Stage(name="a", measure=measure, tolerance=0.1)])  # type: ignore[arg-type]
    ledger.compare("a", "t", ours, recorded)
    return ledger.rows[0]


@pytest.mark.parametrize(("measure", "error"), [("relative", 0.25), ("absolute", 1.0), ("count", 2.0)])
def test_ledger_error_by_hand(measure: str, error: float) -> None:
    row = entry(measure, torch.tensor([1.0, 3.0, 0.5]), torch.tensor([1.0, 4.0, 0.0]))
    assert row.error == error
    assert row.verdict == "FAILED"
    assert row.remark == "worst: t"


def test_ledger_keeps_the_worst_tensor() -> None:
    ledger = Ledger([Stage(name="a", tolerance=0.1), Stage(name="b")])
    for name, value in (("x", 1.01), ("y", 1.05), ("z", 1.02)):
        ledger.compare("a", name, torch.tensor([value]), torch.ones(1))
    ledger.compare("b", "x", torch.ones(1), None)
    first, second = ledger.rows
    assert (first.tensors, first.worst, first.verdict) == (3, "y", "passed")
    assert first.error == pytest.approx(0.05, abs=1e-6)
    assert (second.tensors, second.verdict, second.remark) == (0, "skipped", "absent")


def test_ledger_nan_agrees_only_with_nan() -> None:
    nan = math.nan
    assert entry("relative", torch.tensor([nan, 1.0]), torch.tensor([nan, 1.0])).verdict == "passed"
    for ours, recorded in (([nan, 1.0], [0.0, 1.0]), ([0.0, 1.0], [nan, 1.0]), ([math.inf, 1.0], [0.0, 1.0])):
        row = entry("relative", torch.tensor(ours), torch.tensor(recorded))
        assert (row.error, row.verdict) == (math.inf, "FAILED")


def test_ledger_shapes_must_agree() -> None:
    row = entry("relative", torch.ones(2, 1), torch.ones(2))
    assert row.verdict == "FAILED"
    assert "(2, 1), expected (2,)" in row.remark


def test_omitted_weights_are_nan_but_for_given_rows() -> None:
    tensors = {"a": torch.ones(1), "b#rows": torch.tensor([2]), "b#values": torch.tensor([[5.0, 6.0]])}
    weights = fill_omitted(tensors, {"b": [4, 2], "c": [3]})
    assert set(weights) == {"a", "b", "c"}
    assert weights["b"][2].tolist() == [5.0, 6.0]
    assert weights["b"].isnan().sum() == 6
    assert weights["c"].isnan().all()


def test_reference_unpacks_bits(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["x_bits"] = torch.tensor([[0b10100000, 0b01000000]], dtype=torch.uint8)

    reference = Reference(altered(tmp_path, "text.safetensors", change))
    bits = reference.bits("x_bits", 10)
    assert bits is not None
    assert bits.nonzero()[:, 1].tolist() == [0, 2, 9]
    assert reference.bits("y_bits", 10) is None
    with pytest.raises(ValueError, match="x_bits: expected 17 bits"):
        reference.bits("x_bits", 17)
    found = reference.strided("img1/decoder/pred_masks_aux", "q")
    assert found is not None
    assert (found[1], found[2]) == (10, "img1/decoder/pred_masks_aux_q10")


def test_selections_drawn_again_and_wrong_ones_found() -> None:
    foreground = torch.tensor([[True, False, False, False, False], [False, True, True, False, False]])
    selected = drawn_again(foreground, ratio=0.5, layers=2, generator=random.Random(3))  # noqa: S311
    generator = random.Random(3)  # noqa: S311
    first = [1 + index for index in generator.sample(range(4), 2)]
    second = [[0, 3, 4][index] for index in generator.sample(range(3), 1)]
    assert selected[0, 0].nonzero()[:, 0].tolist() == sorted(first)
    assert selected[0, 1].nonzero()[:, 0].tolist() == second
    assert wrong_selections(selected, foreground, ratio=0.5) == 0
    assert wrong_selections(selected, foreground, ratio=0.3) == 4
    moved = torch.zeros_like(selected)
    moved[:, 0, :2] = True
    moved[:, 1, 0] = True
    assert wrong_selections(moved, foreground, ratio=0.5) == 2
