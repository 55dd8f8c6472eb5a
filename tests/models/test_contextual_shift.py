from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scan_lightning.models.clip import FrozenClip, build_open_clip, run_visual
from scan_lightning.models.contextual_shift import (
    SUBSTITUTION_SOURCES,
    cut_regions,
    draw_background_tokens,
    encode_regions,
    foreground_tokens,
    image_seed,
    region_boxes,
    substitutes,
)


def random_masks(seed: int, count: int, height: int, width: int) -> Tensor:
    """Masks of random boxes with holes; each keeps its box's corners, so that the box is known. Some are one pixel."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for index in range(count):
        y, x = (int(torch.randint(0, side, (), generator=generator)) for side in (height, width))
        h = 1 if index % 4 == 0 else int(torch.randint(1, height - y + 1, (), generator=generator))
        w = 1 if index % 4 in (0, 1) else int(torch.randint(1, width - x + 1, (), generator=generator))
        masks[index, y : y + h, x : x + w] = torch.rand(h, w, generator=generator) > 0.4
        masks[index, y, x] = masks[index, y + h - 1, x + w - 1] = True
    return masks


def loop_box(mask: Tensor) -> list[int]:
    rows, columns = mask.nonzero().unbind(1)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def test_region_boxes_are_tight() -> None:
    masks = random_masks(0, 40, 23, 31)
    boxes = region_boxes(masks)
    assert boxes.dtype == torch.int64
    assert boxes.tolist() == [loop_box(mask) for mask in masks]


def test_region_boxes_expanded_by_hand() -> None:
    masks = torch.zeros(3, 20, 30, dtype=torch.bool)
    masks[0, 8:12, 10:20] = True  # sides 4 and 10 grow to 6 and 15
    masks[1, :4, 26:] = True  # clipped at the top right
    masks[2, 5, 5] = True  # 1 pixel: from 5.5 - 0.75 to 5.5 + 0.75
    assert region_boxes(masks, expand=1.5).tolist() == [[7, 7, 22, 13], [25, 0, 30, 5], [4, 4, 6, 6]]


def test_region_boxes_expand_below_one_raises() -> None:
    with pytest.raises(ValueError, match=r"expand: expected at least 1, got 0\.9"):
        region_boxes(torch.ones(1, 2, 2, dtype=torch.bool), expand=0.9)


@pytest.mark.parametrize(
    ("image", "size"), [((23, 31), (32, 32)), ((64, 40), (14, 14)), ((40, 57), (16, 48)), ((1, 1), (8, 8))]
)
@pytest.mark.parametrize("expand", [1.0, 1.3])
def test_cut_regions_equals_interpolate_one_by_one(
    image: tuple[int, int], size: tuple[int, int], expand: float
) -> None:
    masks = random_masks(1, 21, *image)
    pixels = torch.randn(3, *image, generator=torch.Generator().manual_seed(2))
    boxes = region_boxes(masks, expand=expand)
    crops, region_masks = cut_regions(pixels, masks, boxes, size=size)
    assert (crops.shape, crops.dtype) == ((21, 3, *size), torch.float32)
    assert (region_masks.shape, region_masks.dtype) == ((21, *size), torch.bool)
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        mask = masks[index, y1:y2, x1:x2]
        filled = torch.where(mask, pixels[:, y1:y2, x1:x2], 0.0)  # 0 is the mean colour after normalisation
        expected = F.interpolate(filled[None], size=size, mode="bicubic", align_corners=False)[0]
        torch.testing.assert_close(crops[index], expected, rtol=1e-4, atol=2e-5)
        nearest = F.interpolate(mask[None, None].float(), size=size, mode="nearest")[0, 0] > 0
        assert torch.equal(region_masks[index], nearest)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_cut_regions_does_not_depend_on_chunk(chunk: int) -> None:
    masks, pixels = random_masks(3, 9, 20, 20), torch.randn(3, 20, 20)
    boxes = region_boxes(masks)
    expected = cut_regions(pixels, masks, boxes, size=(16, 16))[0]
    torch.testing.assert_close(cut_regions(pixels, masks, boxes, size=(16, 16), chunk=chunk)[0], expected)


def test_cut_regions_of_no_regions() -> None:
    masks = torch.zeros(0, 8, 8, dtype=torch.bool)
    crops, region_masks = cut_regions(torch.ones(3, 8, 8), masks, torch.zeros(0, 4).long(), size=(4, 4))
    assert (crops.shape, region_masks.shape) == ((0, 3, 4, 4), (0, 4, 4))


def test_foreground_tokens_equals_loop() -> None:
    masks = torch.rand(5, 24, 24, generator=torch.Generator().manual_seed(0)) > 0.98
    found = foreground_tokens(masks, 8)
    assert (found.shape, found.dtype) == ((5, 9), torch.bool)
    for region, mask in enumerate(masks):
        expected = [bool(mask[y : y + 8, x : x + 8].any()) for y in (0, 8, 16) for x in (0, 8, 16)]
        assert found[region].tolist() == expected
    assert 0 < found.sum() < found.numel()


def draw(foreground: Tensor, **changes: Any) -> Tensor:
    arguments: dict[str, Any] = {"ratio": 0.5, "layer": 1, "seed": 0, "image_ids": ["a"]}
    arguments |= {"owners": torch.zeros(len(foreground), dtype=torch.int64), "regions": torch.arange(len(foreground))}
    return draw_background_tokens(foreground, **(arguments | changes))


FOREGROUND = torch.rand(12, 49, generator=torch.Generator().manual_seed(5)) < torch.linspace(0, 1, 12)[:, None]


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.29, 0.5, 0.999, 1.0])
def test_draw_counts_and_stays_in_the_background(ratio: float) -> None:
    drawn = draw(FOREGROUND, ratio=ratio)
    background = ~FOREGROUND
    assert (drawn.shape, drawn.dtype) == (FOREGROUND.shape, torch.bool)
    assert not (drawn & FOREGROUND).any()
    assert drawn.sum(1).tolist() == [int(ratio * int(count)) for count in background.sum(1)]
    if ratio == 1:
        assert torch.equal(drawn, background)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_draw_ratio_outside_unit_interval_raises(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"replace_ratio: expected in \[0, 1\], got"):
        draw(FOREGROUND, ratio=ratio)


def test_draw_does_not_depend_on_what_else_is_in_the_batch() -> None:
    regions, owners = torch.arange(12) % 6, torch.arange(12) // 6
    whole = draw(FOREGROUND, image_ids=["a", "b"], owners=owners, regions=regions)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = draw(FOREGROUND[order], image_ids=["b", "a"], owners=1 - owners[order], regions=regions[order])
    assert torch.equal(shuffled, whole[order])
    for index in range(12):
        alone = draw(
            FOREGROUND[index : index + 1],
            image_ids=["ab"[int(owners[index])]],
            owners=torch.zeros(1, dtype=torch.int64),
            regions=regions[index : index + 1],
        )
        assert torch.equal(alone[0], whole[index])


@pytest.mark.parametrize("change", [{"layer": 2}, {"seed": 1}, {"image_ids": ["b"]}, {"regions": torch.arange(1, 13)}])
def test_draw_depends_on_seed_image_region_and_layer(change: dict[str, Any]) -> None:
    empty = torch.zeros(12, 49, dtype=torch.bool)
    assert torch.equal(draw(empty), draw(empty))
    differs = (draw(empty) != draw(empty, **change)).any(1)
    assert differs.all(), "every region should get another draw"


@pytest.mark.parametrize("vary", ["layer", "regions", "seed", "image_ids"])
def test_draw_is_uniform(vary: str) -> None:
    """Each of 16 tokens is drawn 4 of 16 times on average; 2,000 draws, bounds of 5 standard deviations."""
    draws, tokens, share = 2000, 16, 0.25
    empty = torch.zeros(1, tokens, dtype=torch.bool)
    if vary == "regions":
        drawn = draw(empty.expand(draws, -1), ratio=share)
    elif vary == "image_ids":
        names = [f"image_{index}" for index in range(draws)]
        drawn = draw(
            empty.expand(draws, -1),
            ratio=share,
            image_ids=names,
            owners=torch.arange(draws),
            regions=torch.zeros(draws).long(),
        )
    else:
        drawn = torch.cat([draw(empty, ratio=share, **{vary: index}) for index in range(draws)])
    bound = 5 * (draws * share * (1 - share)) ** 0.5
    assert (drawn.sum(0) - draws * share).abs().max() < bound
    both = drawn.double().T @ drawn.double()  # how often two tokens come together: 4/16 * 3/15 of the draws
    pair = share * 3 / 15
    apart = both[~torch.eye(tokens, dtype=torch.bool)] - draws * pair
    assert apart.abs().max() < 5 * (draws * pair * (1 - pair)) ** 0.5
    patterns = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in drawn)
    assert len(patterns) > 1000, "2,000 draws of 1,820 patterns"


def test_image_seed_is_the_same_everywhere() -> None:
    assert image_seed(0, "a") == 8281872861307171038  # printf '0:a' | b2sum -l 64, little endian, halved
    assert len({image_seed(seed, name) for seed in range(3) for name in "abc"}) == 9


def slow_draw(foreground: list[bool], ratio: float, layer: int, seed: int, image_id: str, region: int) -> list[int]:
    """The draw in Python's own integers: tokens by ascending SplitMix64 key, as signed numbers."""
    mask, step = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    key = mix((mix((image_seed(seed, image_id) + region * step) & mask) + layer * step) & mask)
    keys = {token: mix((key + token * step) & mask) for token, inside in enumerate(foreground) if not inside}
    signed = {token: value - (1 << 64) if value >> 63 else value for token, value in keys.items()}
    return sorted(sorted(signed, key=lambda token: signed[token])[: int(ratio * len(keys))])


def test_draw_equals_slow_loop() -> None:
    """Numbers of a table depend on these draws, so a change of them is a change of the results."""
    drawn = draw(FOREGROUND, ratio=0.3, layer=3, seed=7, image_ids=["000000000139"])
    for region, row in enumerate(drawn):
        expected = slow_draw(FOREGROUND[region].tolist(), 0.3, 3, 7, "000000000139", region)
        assert row.nonzero()[:, 0].tolist() == expected


def tokens_of_image(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(17, 48, generator=generator) for _ in range(3)]


def test_substitutes_by_hand() -> None:
    tokens = tokens_of_image()

    def of(source: Any) -> dict[int, Tensor]:
        return substitutes(source, tokens, layers=(1, 2), seed=0, image_id="a")

    assert of("none") == {}
    for layer in (1, 2):
        assert torch.equal(of("image_cls")[layer], tokens[layer][:1])
        assert torch.equal(of("final_cls")[layer], tokens[2][:1])
        torch.testing.assert_close(of("patch_mean")[layer], tokens[layer][1:].sum(0, keepdim=True) / 16)
        assert torch.equal(of("zeros")[layer], torch.zeros(1, 48))
    assert not torch.equal(of("patch_mean")[1], of("patch_mean")[2])


def test_substitutes_noise_has_the_patches_statistics_and_is_seeded() -> None:
    tokens = [3 + 2 * layer for layer in tokens_of_image()]

    def noise(seed: int = 0, image_id: str = "a") -> dict[int, Tensor]:
        return substitutes("noise", tokens, layers=(1, 2), seed=seed, image_id=image_id)

    assert noise()[1].shape == (16, 48)
    assert noise()[1].mean() == pytest.approx(3, abs=0.3)
    assert noise()[1].std() == pytest.approx(2, abs=0.2)
    assert torch.equal(noise()[1], noise()[1])
    others = [noise(seed=1)[1], noise(image_id="b")[1], noise()[2]]
    assert not any(torch.equal(noise()[1], other) for other in others)


def test_substitutes_unknown_source_raises() -> None:
    with pytest.raises(ValueError, match=r"source: expected one of image_cls, .*, none, got 'cls'"):
        substitutes("cls", tokens_of_image(), layers=(1,), seed=0, image_id="a")  # type: ignore[arg-type]


@pytest.fixture
def crops() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("source", SUBSTITUTION_SOURCES)
def test_encode_regions_equals_loop_over_regions(clip: FrozenClip, crops: Tensor, source: Any) -> None:
    visual: Any = clip.clip.visual
    values = substitutes(source, tokens_of_image(), layers=(1, 2), seed=0, image_id="a")
    foreground = torch.rand(4, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    selected = {layer: draw(foreground, layer=layer) for layer in values}
    with torch.no_grad():
        found = encode_regions(visual, crops, selected=selected, replacements=values)
        plain = visual(crops)
        for region in range(4):
            x = run_visual(visual, crops[region : region + 1], record=True)[1][0]
            for layer, block in enumerate(visual.transformer.resblocks, start=1):
                x = block(x)
                for token in range(16):
                    if layer in values and selected[layer][region, token]:
                        x[0, 1 + token] = values[layer].expand(16, -1)[token]
            torch.testing.assert_close(found[region], (visual.ln_post(x[:, 0]) @ visual.proj)[0])
    if source == "none":
        assert torch.equal(found, plain)
    else:
        assert (found - plain).abs().amax(1).min() > 1e-4


def test_encode_regions_ratio_zero_is_the_plain_tower(clip: FrozenClip, crops: Tensor) -> None:
    values = substitutes("image_cls", tokens_of_image(), layers=(1, 2), seed=0, image_id="a")
    selected = {layer: draw(torch.zeros(4, 16, dtype=torch.bool), ratio=0.0, layer=layer) for layer in values}
    with torch.no_grad():
        plain = clip.clip.visual(crops)
        assert torch.equal(encode_regions(clip.clip.visual, crops), plain)
        assert torch.equal(encode_regions(clip.clip.visual, crops, selected=selected, replacements=values), plain)


def test_encode_regions_gradients_reach_tower_and_crops(clip_architecture: dict[str, Any], crops: Tensor) -> None:
    visual = build_open_clip(clip_architecture).visual
    crops.requires_grad_()
    values = substitutes("image_cls", tokens_of_image(), layers=(1,), seed=0, image_id="a")
    selected = {1: draw(torch.zeros(4, 16, dtype=torch.bool))}
    encode_regions(visual, crops, selected=selected, replacements=values).square().sum().backward()
    assert crops.grad is not None
    assert crops.grad.any()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in visual.parameters())


@pytest.mark.gpu
def test_draws_and_crops_are_the_same_on_a_gpu() -> None:
    names, owners = ["a", "b"], torch.arange(12) // 6
    expected = draw(FOREGROUND, image_ids=names, owners=owners)
    found = draw(FOREGROUND.cuda(), image_ids=names, owners=owners.cuda(), regions=torch.arange(12).cuda())
    assert torch.equal(found.cpu(), expected)
    masks, pixels = random_masks(1, 21, 40, 57), torch.randn(3, 40, 57)
    crops, region_masks = cut_regions(pixels, masks, region_boxes(masks), size=(32, 32))
    on_gpu = cut_regions(pixels.cuda(), masks.cuda(), region_boxes(masks.cuda()), size=(32, 32))
    torch.testing.assert_close(on_gpu[0].cpu(), crops, rtol=1e-4, atol=1e-4)
    assert torch.equal(on_gpu[1].cpu(), region_masks)
