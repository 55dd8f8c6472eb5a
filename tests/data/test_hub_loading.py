"""What happens where the hub is not there, refuses or has no such data set: asked of a server in this process."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from scan_lightning.cli import main
from scan_lightning.data.hub_loading import HubDataset, HubError


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers every request with an error that the path chooses, as the real hub does."""

    requests: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if "slow" in self.path:
            time.sleep(0.6)
        code = {"none": "RepoNotFound", "gated": "GatedRepo", "found": "RevisionNotFound"}
        self.send_response(500 if "broken" in self.path else 404)
        for word, error in code.items():
            if word in self.path:
                self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def _not_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub of these tests is a server on this machine: the environment's offline mode is not theirs."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The server's address is set as the hub's; gives the paths that were asked for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    Hub.requests.clear()
    yield Hub.requests
    server.shutdown()
    server.server_close()
    thread.join()


def opened(path: str, cache: Path, **options: object) -> object:
    return HubDataset(path=path, cache_dir=cache, **options).open_split("train", argument="train_split")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("user/none", FileNotFoundError, "path: no file or folder user/none, and no data set of this name on the hub"),
        ("user/gated", HubError, "path: user/gated is open only to those who agreed to its terms; agree on its page"),
        ("user/found", ValueError, "revision: user/found has no revision 'v9' on the hub"),
        (
            "user/broken",
            HubError,
            r"did not answer as expected within 0\.3 s \(.*500.*Set HF_HUB_OFFLINE=1 to use a copy",
        ),
        (
            "user/slow",
            HubError,
            r"`hf download --repo-type dataset user/slow --local-dir FOLDER`, and give FOLDER as path",
        ),
    ],
)
def test_refusal_of_the_hub_is_told(
    hub: list[str], tmp_path: Path, path: str, error: type[Exception], message: str
) -> None:
    started = time.monotonic()
    with pytest.raises(error, match=message):
        opened(path, tmp_path, revision="v9", timeout=0.3)
    assert hub == [f"/api/datasets/{path}/revision/v9"]
    assert time.monotonic() - started < 5  # `datasets` alone tries for 24 seconds


def test_no_hub_at_all_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"no file or folder user/name, and the hub did not answer .*onnection refused"):
        opened("user/name", tmp_path)


def test_offline_mode_asks_nobody(hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        HubError, match=r"HF_HUB_OFFLINE is set and the cache does not hold it\. Unset HF_HUB_OFFLINE, or"
    ):
        opened("user/name", tmp_path)
    assert hub == []


def test_command_line_tells_how_to_go_on_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    model = ["--model=scan_lightning.baselines.PriorBaseline", "--trainer.logger=false"]
    data = ["--data=scan_lightning.data.HubDataModule", "--data.path=user/name", "--data.vocabulary=[sky]"]
    assert main(["fit", *model, *data, "--data.batch_size=1"]) == 1
    assert "give FOLDER as path" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["./none", "/none/here", "a/b/c", "data/none.parquet", "..x/", "hf://datasets/a/b"])
def test_path_that_is_neither_file_nor_id_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: list[str], path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError), match=r"path: expected "):
        opened(path, tmp_path)
    assert hub == []


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"no", r"a\.parquet: Parquet file size is 2 bytes"),
        ("a.arrow", b"no", r"a\.arrow: "),
        ("a.csv", b"x,y", r"path: expected a file that ends in \.parquet or \.arrow, or a folder, got .*a\.csv"),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, message: str, streaming: bool) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        opened(str(tmp_path / name), tmp_path / "cache", streaming=streaming)


def test_damaged_saved_data_set_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"a": [1]}).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "state.json").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match=r"saved: expected a data set saved to disk, but it is damaged"):
        opened(str(tmp_path / "saved"), tmp_path)


def test_empty_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"path: expected data files in .*empty \(The directory at"):
        opened(str(tmp_path / "empty"), tmp_path / "cache")


def test_code_of_a_data_set_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", "utf-8")
    monkeypatch.setenv("HF_DATASETS_TRUST_REMOTE_CODE", "1")
    given: list[dict[str, object]] = []
    load = datasets.load_dataset

    def spy(**arguments: object) -> object:
        given.append(arguments)
        return load(**arguments)

    monkeypatch.setattr(datasets, "load_dataset", spy)
    with pytest.raises(ValueError, match=r"scripted: refused, .*; code of a data set is never run"):
        opened(str(folder), tmp_path / "cache")
    assert [{"trust_remote_code", "token"} & set(arguments) for arguments in given] == [set()]
    assert not (tmp_path / "ran").exists()


def test_files_of_a_split_can_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(2):
        datasets.Dataset.from_dict({"a": [number]}).to_parquet(folder / f"part{number}.parquet")
    data = HubDataset(path=str(folder), data_files={"odd": "part1.parquet"}, cache_dir=tmp_path / "cache")
    assert data.open_split("odd", argument="test_split")[0]["a"].to_pylist() == [1]
    with pytest.raises(ValueError, match=r"test_split: expected one of the splits \['odd'\]"):
        data.open_split("train", argument="test_split")
    missing = HubDataset(path=str(folder), data_files={"odd": "part7.parquet"}, cache_dir=tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match=r"part7\.parquet"):
        missing.open_split("odd", argument="test_split")


def test_slices_need_rows_on_disk(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict({"a": [0, 1, 2]}).to_parquet(tmp_path / "data" / "train.parquet")
    data = HubDataset(path=str(tmp_path / "data"), cache_dir=tmp_path / "cache")
    assert len(data.open_split("train[:2]", argument="val_split")) == 2
    streamed = HubDataset(path=str(tmp_path / "data"), cache_dir=tmp_path / "cache", streaming=True)
    with pytest.raises(ValueError, match="slices need a data set that is neither streamed nor saved to disk"):
        streamed.open_split("train[:2]", argument="val_split")


def test_cache_inside_the_data_raises(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"a": [0]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(
        ValueError, match=r"cache_dir: expected a folder outside .*, whose files are all taken for data"
    ):
        opened(str(tmp_path), tmp_path / "cache")
