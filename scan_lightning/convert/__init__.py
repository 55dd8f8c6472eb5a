"""Released weights to this project's folders and back."""

from scan_lightning.convert.architecture import config_from_released
from scan_lightning.convert.names import from_released, missing_keys, to_released

__all__ = ["config_from_released", "from_released", "missing_keys", "to_released"]
