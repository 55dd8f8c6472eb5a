"""Networks on the Hugging Face hub: `Scan.from_pretrained`, `Scan.save_pretrained`, `Scan.push_to_hub`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import httpx
import huggingface_hub
from huggingface_hub import ModelCard, ModelHubMixin
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from scan_lightning.models.inference import InferenceSettings
from scan_lightning.models.model_card import CardFacts, build_card

if TYPE_CHECKING:  # `Scan` has the mixin below
    from scan_lightning.models.scan import Scan

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
CLIP_FOLDERS = {"model": "clip", "weights": "clip_weights", "shifted_weights": "shifted_clip"}
"""Folders within a network's own that hold its CLIP, by the field of `ClipConfig` that names what is in them."""
_FILES = ("*.json", "*.safetensors", *(f"{folder}/*" for folder in CLIP_FOLDERS.values()))
_OLDER_FILES = ("*.bin",)
_UNREACHABLE = (OSError, httpx.HTTPError)


def find_folder(source: str | Path, **options: Any) -> Path:
    """Find a folder on disk, else in the hub's cache, else on the hub; a folder on disk never asks the network.

    Args:
        source: Folder, or hub name ``owner/name``.
        options: For `huggingface_hub.snapshot_download`: revision, token, cache_dir, force_download, local_files_only.

    Returns:
        A folder of configurations and weights; nothing in it is run.

    Raises:
        FileNotFoundError: If there is no such folder, the hub has no such model, or it cannot be reached.
        PermissionError: If the hub keeps the model from this user.
    """
    if Path(source).is_dir():
        return Path(source)
    name = str(source)
    if not _NAME.fullmatch(name):
        raise FileNotFoundError(f"no folder {name}, and a hub name has the form owner/name")
    try:
        folder = _snapshot(name, _FILES, options)
        if not any(folder.rglob("*.safetensors")):
            folder = _snapshot(name, [*_FILES, *_OLDER_FILES], options)
    except GatedRepoError as error:
        raise PermissionError(
            f"{name}: the hub asks you to accept the model's terms there, then: hf auth login"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"no folder {name}, and no such model or revision on the hub: {_line(error)}"
        ) from error
    except _UNREACHABLE as error:
        raise FileNotFoundError(
            f"no folder {name}, and the hub cannot be reached ({_line(error)}); give a local folder, or where there is "
            f"a network: hf download {name} --local-dir FOLDER"
        ) from error
    return folder


def _snapshot(name: str, patterns: Sequence[str], options: Mapping[str, Any]) -> Path:
    """Fetch some files of a model."""
    return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns), **options))


def _line(error: BaseException) -> str:
    """Give an error's first line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class HubMixin(
    ModelHubMixin,
    library_name="scan-lightning",
    pipeline_tag="image-segmentation",
    paper_url="https://arxiv.org/abs/2312.04089",
    tags=["open-vocabulary-segmentation", "semantic-segmentation", "clip", "scan"],
):
    """What a network needs to come from the hub and go there, in the folders of `save_scan`.

    Attributes:
        recommended: Test-time settings that came with the weights; `Scan.segment` uses them where none are given.
        origin: Where the weights come from, as their folder says; None for a network that was trained here.
    """

    recommended: InferenceSettings | None = None
    origin: Mapping[str, str] | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """Load a network from a folder or from the hub.

        Args:
            pretrained_model_name_or_path: Folder of `save_scan`, which never asks the network, or a hub name
                ``owner/name``.
            force_download: Whether to fetch again what the cache has.
            token: Of the hub; None takes the one that is logged in.
            cache_dir: Folder of the cache; None takes the hub's.
            local_files_only: Whether to take only what the cache has.
            revision: Branch, tag or commit.
            model_kwargs: ``text_cache``, as in `Scan`.

        Returns:
            The network in evaluation mode on the CPU, its ``recommended`` settings with it.

        Raises:
            FileNotFoundError: If it is not there, or the hub cannot be reached.
            PermissionError: If the hub keeps the model from this user.
            ValueError: If a file is damaged or does not fit.
        """
        return cls._from_pretrained(
            model_id=str(pretrained_model_name_or_path),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            **model_kwargs,
        )

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> Self:
        """Find the folder and load it, as the mixin asks."""
        from scan_lightning.models.pretrained import load_scan, read_record, settings_of

        folder = find_folder(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        scan = load_scan(folder, **model_kwargs)
        record, _ = read_record(folder)
        scan.recommended = settings_of(record, folder)
        scan.origin = record.get("origin")
        return cast(Self, scan)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the folder, as the mixin asks."""
        from scan_lightning.models.pretrained import save_scan

        save_scan(self._scan, save_directory, settings=self.recommended, origin=self.origin)

    @property
    def _scan(self) -> Scan:
        """This network."""
        return cast("Scan", self)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save the network and its model card, and put both on the hub in one commit.

        Args:
            repo_id: ``owner/name``; made if it is missing.
            options: Those of the mixin: private, token, branch, create_pr, commit_message, delete_patterns, and
                model_card_kwargs, which are the fields of `CardFacts`; its name is ``repo_id`` where none is given.

        Returns:
            Address of the commit.

        Raises:
            PermissionError: If the hub refuses.
            ConnectionError: If the hub cannot be reached.
        """
        options["model_card_kwargs"] = {"name": repo_id, **(options.get("model_card_kwargs") or {})}
        try:
            return str(super().push_to_hub(repo_id, **options))
        except HfHubHTTPError as error:
            raise PermissionError(f"{repo_id}: the hub refused ({_line(error)}); log in by: hf auth login") from error
        except httpx.HTTPError as error:
            raise ConnectionError(
                f"{repo_id}: the hub cannot be reached ({_line(error)}); nothing was pushed"
            ) from error

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Write the model card.

        Args:
            args: None are taken.
            kwargs: Fields of `CardFacts`.

        Returns:
            The card.

        Raises:
            TypeError: If a field is unknown.
        """
        return build_card(self._scan, CardFacts(*args, **kwargs), self._hub_mixin_info.model_card_data)
