"""Every error Aisle raises on purpose. A message names the thing, what was found and what is wanted."""

from __future__ import annotations


class AisleError(Exception):
    """Base of all errors that Aisle raises on purpose."""


class ProductError(AisleError):
    """One product cannot be classified. It concerns that product alone, never its neighbours.

    `reason` is a short constant for metrics (`image_truncated`), `field` the field at fault.
    """

    def __init__(self, reason: str, *, field: str, found: str, wanted: str) -> None:
        super().__init__(f"{field}: found {found}, wanted {wanted}")
        self.reason = reason
        self.field = field
        self.found = found
        self.wanted = wanted


class BundleError(AisleError):
    """A folder of model files is incomplete, damaged or does not fit together."""


class EncoderError(AisleError):
    """An encoder cannot be loaded or does not fit what asks for it."""


class CatalogError(AisleError):
    """A catalogue cannot be read: a file or a column is missing or makes no sense."""


class FeatureStoreError(AisleError):
    """The feature store does not hold, or did not keep, what it should."""


class LedgerError(AisleError):
    """The ledger's database is away or locked; the same call may succeed later."""


class LedgerRefusedError(LedgerError):
    """The ledger's database refuses these rows, now and later."""


class SettingError(AisleError):
    """A setting (an `AISLE_*` variable or an option) has a value that cannot be used."""


class KeysError(AisleError):
    """The file of API keys cannot be read or written, or a key in it makes no sense."""


class StoppedError(AisleError):
    """Work was stopped by a signal, at a place from which a rerun goes on."""
