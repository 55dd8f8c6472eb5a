"""Opening data sets with Hugging Face `datasets`: from the hub, from local files, or as saved to disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}
_SAVED = ("dataset_dict.json", "state.json")


class HubError(ConnectionError, ValueError):
    """The hub could not be reached or refused; the message says how to go on without it."""


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A data set to open. Code that comes with a data set is never run.

    Args:
        path: Id on the hub, a ``.parquet`` or ``.arrow`` file, a folder of data files, or a folder written by
            ``save_to_disk``.
        config_name: Configuration (also called subset).
        revision: Branch, tag or commit on the hub.
        data_files: For each split the names or patterns of its files in the folder or on the hub. None lets
            `datasets` find them by their names.
        streaming: Whether to read rows as they come, without a copy on disk.
        cache_dir: Where `datasets` keeps its copy. None means its own default.
        timeout: Seconds to wait for the hub's first answer.
    """

    path: str
    config_name: str | None = None
    revision: str | None = None
    data_files: Mapping[str, str | list[str]] | None = None
    streaming: bool = False
    cache_dir: Path | None = None
    timeout: float = 10.0

    @property
    def local(self) -> Path | None:
        """The file or folder, or None for a data set on the hub.

        Raises:
            FileNotFoundError: If ``path`` does not exist and is no id.
        """
        path = Path(self.path).expanduser()
        if path.exists():
            return path
        if not _HUB_ID.fullmatch(self.path) or path.suffix in _BUILDERS:
            raise FileNotFoundError(
                f"path: expected a file, a folder or an id on the hub such as user/name, but {self.path} is no id and "
                f"there is no such file or folder"
            )
        return None

    @property
    def roots(self) -> tuple[Path, ...]:
        """Folders that may hold images named in columns: the data set's own first, then the caches."""
        import datasets
        from huggingface_hub import constants

        local = self.local
        own = () if local is None else (local if local.is_dir() else local.parent,)
        cache = self.cache_dir or Path(datasets.config.HF_DATASETS_CACHE)
        return (*own, cache, Path(constants.HF_HUB_CACHE))

    def open_split(self, name: str, *, argument: str) -> Any:
        """Open one split.

        Args:
            name: The split's name; for data sets that are neither streamed nor saved to disk also a slice such as
                ``train[:90%]``.
            argument: Name of the setting that holds it, for messages.

        Returns:
            A ``Dataset``, with ``streaming`` an ``IterableDataset``; rows come as Arrow tables.

        Raises:
            FileNotFoundError: If there is no such data set.
            HubError: If the hub cannot be reached.
            ValueError: If the data set has no such split, no such configuration, damaged files or code of its own.
        """
        splits = self._splits
        base = name.split("[")[0]
        if base not in splits or (base != name and (self.streaming or self._is_saved)):
            kind = " (slices need a data set that is neither streamed nor saved to disk)" if base in splits else ""
            raise ValueError(
                f"{argument}: expected one of the splits {sorted(splits)} of {self.path}{kind}, got {name!r}; "
                f"give null for none"
            )
        opened = splits[name] if base == name else self._load(split=name)
        return opened.with_format("arrow")

    @cached_property
    def _splits(self) -> dict[str, Any]:
        """Open all splits, once."""
        if self._is_saved:
            return self._load_saved()
        if self.local is None:
            self._ask_hub()
        return dict(self._load())

    @property
    def _is_saved(self) -> bool:
        return self.local is not None and any((self.local / name).is_file() for name in _SAVED)

    def _load_saved(self) -> dict[str, Any]:
        import datasets

        if self.streaming:
            raise ValueError(f"streaming: expected false for {self.path}, which is saved to disk and read in place")
        try:
            saved = datasets.load_from_disk(str(self.local))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: expected a data set saved to disk, but it is damaged ({error})") from error
        return dict(saved) if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}

    def _load(self, split: str | None = None) -> Any:
        """Call ``load_dataset``, with errors that say what to do."""
        import datasets
        from datasets.exceptions import DatasetNotFoundError, DatasetsError

        arguments = self._arguments()
        try:
            return datasets.load_dataset(**arguments, split=split)
        except DatasetNotFoundError as error:
            raise FileNotFoundError(f"path: no data set {self.path} here or on the hub ({error})") from error
        except FileNotFoundError as error:
            raise FileNotFoundError(f"path: expected data files in {self.path} ({_first_line(error)})") from error
        except ConnectionError as error:
            raise self._unreachable(error) from error
        except RuntimeError as error:
            if "script" not in str(error):
                raise
            raise ValueError(f"{self.path}: refused, {error}; code of a data set is never run") from error
        except (DatasetsError, ValueError) as error:
            raise ValueError(f"{self.path}: {_first_line(error.__cause__ or error)}") from error

    def _arguments(self) -> dict[str, Any]:
        """Arguments of ``load_dataset``."""
        given = {"streaming": self.streaming, "cache_dir": None if self.cache_dir is None else str(self.cache_dir)}
        local = self.local
        if local is not None and self.cache_dir and self.cache_dir.resolve().is_relative_to(local.resolve()):
            raise ValueError(
                f"cache_dir: expected a folder outside {local}, whose files are all taken for data, "
                f"got {self.cache_dir}"
            )
        if local is None or local.is_dir():
            files = None if self.data_files is None else dict(self.data_files)
            path = self.path if local is None else str(local)
            return {**given, "path": path, "name": self.config_name, "revision": self.revision, "data_files": files}
        if local.suffix not in _BUILDERS:
            raise ValueError(f"path: expected a file that ends in .parquet or .arrow, or a folder, got {local}")
        return {**given, "path": _BUILDERS[local.suffix], "data_files": str(local)}

    def _ask_hub(self) -> None:
        """Find out soon whether the hub has the data set: `datasets` alone tries for half a minute."""
        import datasets
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        if datasets.config.HF_HUB_OFFLINE:
            return
        try:
            api = HfApi(endpoint=datasets.config.HF_ENDPOINT)
            api.dataset_info(self.path, revision=self.revision, timeout=self.timeout)
        except GatedRepoError as error:
            raise HubError(
                f"path: {self.path} is open only to those who agreed to its terms; agree on its page, then log in with "
                f"`hf auth login`"
            ) from error
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"path: no file or folder {self.path}, and no data set of this name on the hub (or a private one)"
            ) from error
        except RevisionNotFoundError as error:
            raise ValueError(f"revision: {self.path} has no revision {self.revision!r} on the hub") from error
        except Exception as error:  # the HTTP library beneath, and so the class, differs between versions
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> HubError:
        """Say how to go on without the hub."""
        import datasets

        if datasets.config.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set and the cache does not hold it"
            way = "Unset HF_HUB_OFFLINE"
        else:
            reason = f"the hub did not answer as expected within {self.timeout:g} s ({_first_line(error)})"
            way = "Set HF_HUB_OFFLINE=1 to use a copy in the cache"
        return HubError(
            f"path: there is no file or folder {self.path}, and {reason}. {way}, or load it where there is a network, "
            f"`hf download --repo-type dataset {self.path} --local-dir FOLDER`, and give FOLDER as path"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
