"""CLIP weights by open_clip's tags, without a hub."""

from typing import Any

import open_clip
import pytest

from scan_lightning.models.clip import load_open_clip

TAG = "datacomp_xl_s13b_b90k"


@pytest.mark.parametrize("error", [RuntimeError, OSError])
def test_tag_without_a_hub_tells_of_local_copies(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(*_args: Any, **options: Any) -> None:
        assert options["pretrained"] == TAG
        raise error("Failed to download\nand a second line")

    monkeypatch.setattr("scan_lightning.models.clip.open_clip.create_model", fail)
    with pytest.raises(FileNotFoundError, match=r"'datacomp_xl_s13b_b90k' of ViT-B-16 could not be loaded") as raised:
        load_open_clip("ViT-B-16", weights=TAG)
    assert str(raised.value).endswith("can be named by its path: Failed to download")


@pytest.mark.parametrize("model", ["ViT-B-16", "ViT-L-14"])
def test_tag_is_known_for_the_papers_models(model: str) -> None:
    assert TAG in open_clip.list_pretrained_tags_by_model(model)
