import json
from pathlib import Path

import pytest

from scan_lightning.data import published
from scan_lightning.data.published import load_published


def test_published_rows_are_those_of_the_paper() -> None:
    rows = {row.title: row for row in load_published()}
    assert list(rows) == ["SCAN ViT-B/16", "SCAN ViT-L/14", "OVSeg ViT-L/14", "SAN ViT-L/14"]
    assert rows["SCAN ViT-B/16"].scores == {
        "a150": 0.308,
        "a847": 0.108,
        "pc59": 0.584,
        "pc459": 0.132,
        "voc20": 0.97,
    }
    for row in rows.values():
        assert set(row.scores) == {"a150", "a847", "pc59", "pc459", "voc20"}
        assert row.metric == "miou_any"
        assert "arXiv 2312.04089" in row.publication


@pytest.mark.parametrize(("scores", "message"), [({"a999": 3.0}, "a999"), ({"a150": 308}, "a150: 308")])
def test_published_rows_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: dict[str, float], message: str
) -> None:
    row = {"method": "m", "model": "x", "backbone": "x", "scores": scores}
    (tmp_path / "wrong.json").write_text(json.dumps({"publication": "p", "metric": "miou_any", "rows": [row]}), "utf-8")
    monkeypatch.setattr(published, "_FOLDER", tmp_path)
    with pytest.raises(ValueError, match=message):
        load_published.__wrapped__()
