import copy
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file

from scan_lightning.models.clip import ClipConfig
from scan_lightning.models.hub import find_folder
from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.pretrained import save_scan
from scan_lightning.models.scan import Scan

SETTINGS = InferenceSettings(replace_layers=(2,), ensemble_weight=0.3)
PATTERNS = ["*.json", "*.safetensors", "clip/*", "clip_weights/*", "shifted_clip/*"]
CSV = (
    "name,config_hash,commit,dirty,seed,python,torch,hardware,checkpoint_hash,images,miou_any,sg_iou_any\n"
    "seen,0123456789abcdef,cafe000000000000,1,3,3.11,2.15,2 CPU,ff,7,0.4567,\n"
    "unseen,fedcba9876543210,cafe000000000000,0,4,3.11,2.15,2 CPU,ff,9,0.25,0.125\n"
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks the network fails."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def own(make_scan: Callable[..., Scan]) -> Scan:
    """A network that a test may change."""
    return make_scan()


@pytest.fixture
def folder(scan: Scan, tmp_path: Path) -> Path:
    """Folder of a network with settings and an origin."""
    save_scan(scan, tmp_path / "net", settings=SETTINGS, origin={"format": "somewhere"})
    return tmp_path / "net"


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://hub.invalid"))


def equal(one: Scan, other: Scan) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_local_folder_brings_weights_settings_and_origin(folder: Path, scan: Scan) -> None:
    loaded = Scan.from_pretrained(folder)
    assert equal(loaded, scan)
    assert not loaded.training
    assert (loaded.recommended, loaded.origin) == (SETTINGS, {"format": "somewhere"})
    assert (scan.recommended, scan.origin) == (None, None)


def test_segment_takes_the_recommended_settings(folder: Path, image_of: Callable[..., Any], monkeypatch: Any) -> None:
    loaded, seen = Scan.from_pretrained(folder), []
    monkeypatch.setattr("scan_lightning.models.scan.predict_labels", lambda *_, settings, **__: seen.append(settings))
    for given in (None, InferenceSettings(replace_layers=(1,))):
        with pytest.raises(TypeError):  # nothing was predicted
            loaded.segment(image_of(0, 32, 40), ["sky"], settings=given)
    assert seen == [SETTINGS, InferenceSettings(replace_layers=(1,))]


def test_save_pretrained_round_trip_writes_a_card(folder: Path, tmp_path: Path) -> None:
    loaded = Scan.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "again", model_card_kwargs={"name": "a/b"})
    again = Scan.from_pretrained(tmp_path / "again")
    assert equal(again, loaded)
    assert (again.recommended, again.origin) == (SETTINGS, {"format": "somewhere"})
    names = sorted(path.name for path in (tmp_path / "again").iterdir())
    assert names == ["README.md", "clip", "config.json", "model.safetensors"]
    assert "# a/b" in (tmp_path / "again" / "README.md").read_text()
    assert json.loads((tmp_path / "again" / "config.json").read_text())["architecture"]


def test_copies_stay_networks(own: Scan) -> None:
    assert equal(copy.deepcopy(own), own)


def test_hub_name_fetches_no_more_than_needed(folder: Path, scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def fetch(name: str, **options: Any) -> str:
        calls.append((name, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    loaded = Scan.from_pretrained("lab/scan", revision="v1", token="secret", local_files_only=True)  # noqa: S106
    assert equal(loaded, scan)
    ((name, options),) = calls
    assert (name, options["revision"], options["token"], options["local_files_only"]) == (
        "lab/scan",
        "v1",
        "secret",
        True,
    )
    assert options["allow_patterns"] == PATTERNS


def test_clip_of_another_format_comes_with_the_network(
    make_scan: Callable[..., Scan], clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "older.pt"
    torch.save(load_file(clip_folder / "model.safetensors"), older)
    scan = make_scan(clip=ClipConfig(model=str(clip_folder), weights=str(older), shifted_weights=str(older)))
    save_scan(scan, tmp_path / "hub")

    def fetch(_name: str, *, allow_patterns: list[str], **_: Any) -> str:
        files = [str(path.relative_to(tmp_path / "hub")) for path in (tmp_path / "hub").rglob("*") if path.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            (tmp_path / "cache" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tmp_path / "hub" / file, tmp_path / "cache" / file)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert equal(Scan.from_pretrained("lab/scan"), scan)


def test_older_weights_are_fetched_only_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = []

    def fetch(_name: str, *, allow_patterns: list[str]) -> str:
        patterns.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert find_folder("lab/old") == tmp_path
    assert patterns == [PATTERNS, [*PATTERNS, "*.bin"]]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (httpx.ConnectError("no route"), FileNotFoundError, r"hub cannot be reached \(no route\); give a local folder"),
        (LocalEntryNotFoundError("offline"), FileNotFoundError, r"cannot be reached \(offline\).*hf download lab/scan"),
        (
            RepositoryNotFoundError("none", response=response(404)),
            FileNotFoundError,
            "no such model or revision",
        ),
        (GatedRepoError("gate", response=response(403)), PermissionError, "accept the model's terms"),
    ],
)
def test_hub_failures_say_what_to_do(
    error: Exception, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(kind, match=message):
        Scan.from_pretrained("lab/scan")


@pytest.mark.parametrize("name", ["nowhere", "/no/such/folder", "../up", "a/b/c", ""])
def test_what_is_neither_folder_nor_hub_name_never_asks(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "":
        assert find_folder(name) == Path(name)  # the folder one is in
        return
    with pytest.raises(FileNotFoundError, match=r"no folder .*owner/name"):
        find_folder(name)


class FakeApi:
    """What the mixin asks of the hub, and what it was given."""

    def __init__(self, *, token: str | None) -> None:
        FakeApi.token = token

    def create_repo(self, *, repo_id: str, private: bool | None, exist_ok: bool) -> Any:
        FakeApi.created = (repo_id, private, exist_ok)
        return type("Url", (), {"repo_id": repo_id})

    def upload_folder(self, *, folder_path: Path, repo_id: str, commit_message: str, **_: Any) -> str:
        FakeApi.files = {str(p.relative_to(folder_path)) for p in folder_path.rglob("*") if p.is_file()}
        FakeApi.card = (folder_path / "README.md").read_text(encoding="utf-8")
        FakeApi.loaded = Scan.from_pretrained(folder_path)
        return f"https://hub.invalid/{repo_id}"


def test_push_uploads_network_and_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", FakeApi)
    loaded = Scan.from_pretrained(folder)
    address = loaded.push_to_hub("lab/scan", private=True, token="t", model_card_kwargs={"licence": "mit"})  # noqa: S106
    assert address == "https://hub.invalid/lab/scan"
    assert (FakeApi.token, FakeApi.created) == ("t", ("lab/scan", True, True))
    assert FakeApi.files == {
        "README.md",
        "config.json",
        "model.safetensors",
        "clip/open_clip_config.json",
        "clip/model.safetensors",
    }
    assert equal(FakeApi.loaded, loaded)
    assert "license: mit" in FakeApi.card
    assert 'Scan.from_pretrained("lab/scan")' in FakeApi.card
    assert "library_name: scan-lightning" in FakeApi.card


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HfHubHTTPError("401", response=response(401)), PermissionError),
        (httpx.ConnectError("no route"), ConnectionError),
    ],
)
def test_push_failures_say_what_to_do(
    error: Exception, kind: type[Exception], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(FakeApi, "create_repo", fail)
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", FakeApi)
    with pytest.raises(kind, match=r"lab/scan: the hub (refused \(401\); log in by|cannot be reached \(no route\))"):
        Scan.from_pretrained(folder).push_to_hub("lab/scan")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text(CSV)
    return tmp_path / "rows.csv"


def test_card_tells_scores_record_and_what_was_given(own: Scan, results: Path) -> None:
    own.recommended = SETTINGS
    facts = {"results": results, "data": "Scenes.", "licence": "mit", "limits": ["Day only."], "record": {"steps": 900}}
    card = own.generate_model_card(name="lab/scan", **facts)
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "image-segmentation"
    text = card.content
    assert "| test | images | miou_any | sg_iou_any | configuration | commit |" in text
    assert "| seen | 7 | 45.7 | - | 0123456789ab | cafe000000 (changed) |" in text
    assert "| unseen | 9 | 25.0 | 12.5 | fedcba987654 | cafe000000 |" in text
    for line in ("- config_hash: 0123456789abcdef, fedcba9876543210", "- seed: 3, 4", "- torch: 2.15", "- steps: 900"):
        assert line in text
    for part in ("Scenes.", "Weights: mit.", "- Day only.", 'from_pretrained("lab/scan")', "share of CLIP 0.3"):
        assert part in text
    learnt = sum(p.numel() for name, p in own.named_parameters() if not name.startswith("clip."))
    assert f"{learnt:,} beside CLIP" in text


def test_card_takes_only_the_rows_named(own: Scan, results: Path) -> None:
    text = own.generate_model_card(results=results, rows=["unseen"]).content
    assert "| unseen |" in text
    assert "| seen |" not in text
    assert "- seed: 4" in text


def test_card_without_facts_says_so(own: Scan) -> None:
    text = own.generate_model_card().content
    assert "No test run was given" in text
    assert "Not stated by who made this card." in text
    assert "license:" not in text


def test_card_of_released_weights_is_non_commercial(own: Scan) -> None:
    own.origin = {"format": "released SCAN checkpoint", "file": "SCAN.pth"}
    card = own.generate_model_card()
    assert card.data.license == "cc-by-nc-4.0"
    assert "converted from those that SCAN's authors released" in card.content
    assert "COCO-Stuff, train2017" in card.content


@pytest.mark.parametrize(
    ("content", "rows", "message"),
    [
        (CSV, ["third"], "has no row 'third'; its rows are seen, unseen"),
        ("name,steps\na,3\n", [], "expected rows with a name and scores"),
        ("", [], "expected rows with a name and scores"),
    ],
)
def test_card_refuses_other_tables(own: Scan, tmp_path: Path, content: str, rows: list[str], message: str) -> None:
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        own.generate_model_card(results=tmp_path / "rows.csv", rows=rows)
    with pytest.raises(FileNotFoundError, match="results: no file"):
        own.generate_model_card(results=tmp_path / "none.csv")


def test_configuration_that_leaves_the_folder_is_refused(folder: Path) -> None:
    record = json.loads((folder / "config.json").read_text())
    record["architecture"]["clip"]["model"] = "./../net/clip"
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"clip\.model leaves the folder"):
        Scan.from_pretrained(folder)
