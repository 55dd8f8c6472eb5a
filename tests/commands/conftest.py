"""A tiny network as a folder of weights, and a working directory with striped images, for tests of commands."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import SETTINGS, write_stripes

from scan_lightning.models.pretrained import save_scan
from scan_lightning.models.scan import Scan
from scan_lightning.models.segmenter import SegmenterConfig


@pytest.fixture(scope="session")
def scan_of(make_scan: Callable[..., Scan], segmenter_config: SegmenterConfig) -> Callable[[int], Scan]:
    """Function that makes a network from a seed; two channels per group of a normalisation suit images of 32 pixels."""
    return lambda seed: make_scan(seed, segmenter=replace(segmenter_config, conv_dim=64))


@pytest.fixture(scope="session")
def saved_scan(scan_of: Callable[[int], Scan], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_scan(scan_of(0), folder, settings=SETTINGS)
    return folder


@pytest.fixture
def stripes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, new and with ``stripes.yaml``; a seed that is set here is taken back."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)
    write_stripes(Path("stripes.yaml"))
    return tmp_path
