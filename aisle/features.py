"""Names, types and versions of what the feature store holds. Feast itself is not needed to know them.

A view is named after the encoder revision that made it, so vectors of two encoders never mix.
On disk, below a shop's `features` folder:

    text_embedding__<rev>/view.json         the ViewSpec
    text_embedding__<rev>/shard-00000.parquet ...   product_id, source_hash, embedding, event_timestamp
    text_embedding__<rev>/index.parquet     product_id -> shard, row, source_hash, event_timestamp
    services/<version>.json                 the views that one classifier version reads
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from aisle.errors import FeatureStoreError, SettingError

ENTITY = "product"
JOIN_KEY = "product_id"
MODALITIES = ("text", "image")
_REDIS_TYPES = {"": "redis", "cluster": "redis_cluster", "sentinel": "redis_sentinel"}
_REVISION = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """One modality's embeddings by one encoder revision."""

    modality: str
    revision: str
    encoder: str
    dim: int
    dtype: str = "float32"
    pooling: str = "mean"

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise FeatureStoreError(f"view modality: found {self.modality!r}, wanted one of {MODALITIES}")
        if not _REVISION.fullmatch(self.revision):
            raise FeatureStoreError(f"view revision: found {self.revision!r}, wanted 8 hex digits")
        if self.dim < 1:
            raise FeatureStoreError(f"view {self.embedding_view} dim: found {self.dim}, wanted 1 or more")

    @property
    def embedding_view(self) -> str:
        """The online view: embedding and source_hash."""
        return embedding_view_of(self.modality, self.revision)

    @property
    def index_view(self) -> str:
        """The slim offline view that training joins over: shard, row, source_hash."""
        return f"{self.modality}_index__{self.revision}"

    def folder(self, features: Path) -> Path:
        """Where the shards of this view lie."""
        return features / self.embedding_view

    def write(self, features: Path) -> None:
        """Note the view in its folder, where `load_specs` finds it."""
        folder = self.folder(features)
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "view.json", asdict(self))


def embedding_view_of(modality: str, revision: str) -> str:
    """Name of the online view that holds one encoder revision's embeddings."""
    return f"{modality}_embedding__{revision}"


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """The views that one classifier version reads: one Feast FeatureService."""

    version: str
    text_revision: str
    image_revision: str

    @property
    def name(self) -> str:
        return f"classifier__{self.version}"

    def write(self, features: Path) -> None:
        folder = features / "services"
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / f"{self.version}.json", asdict(self))


def load_specs(features: Path) -> list[ViewSpec]:
    """The views whose index is complete, by name."""
    found = sorted(features.glob("*_embedding__*/view.json"))
    return [ViewSpec(**json.loads(p.read_text())) for p in found if (p.parent / "index.parquet").is_file()]


def load_services(features: Path) -> list[ServiceSpec]:
    """The classifier versions that were registered from this shop, by version."""
    return [ServiceSpec(**json.loads(p.read_text())) for p in sorted((features / "services").glob("*.json"))]


def feast_environment(home: Path, redis_url: str, *, timeout_s: float) -> dict[str, str]:
    """The variables that feature_repo/feature_store.yaml and definitions.py take their values from."""
    redis_type, connection, master = redis_connection(redis_url, timeout_s=timeout_s)
    return {
        "AISLE_FEAST_FEATURES": str(home / "features"),
        "AISLE_FEAST_REGISTRY": str(home / "feast" / "registry.db"),
        "AISLE_FEAST_REDIS_TYPE": redis_type,
        "AISLE_FEAST_REDIS": connection,
        "AISLE_FEAST_SENTINEL_MASTER": master,
    }


def redis_connection(redis_url: str, *, timeout_s: float) -> tuple[str, str, str]:
    """Feast's (redis_type, connection_string, sentinel_master) of a URL.

    `redis://` and `rediss://` (TLS) name a single server, `redis+cluster://` a Cluster,
    `redis+sentinel://` Sentinels (with `?service=name`); several hosts stand between commas. Without
    `retry=null` and socket timeouts a dead Redis would cost 7 s a call (redis-py's retries).
    Raises SettingError for any other URL.
    """
    url = urlsplit(redis_url)
    base, _, kind = url.scheme.partition("+")
    if base not in ("redis", "rediss") or kind not in _REDIS_TYPES or not url.netloc:
        raise SettingError(
            f"AISLE_REDIS_URL: found {url.scheme or 'no'} as its scheme, wanted redis://host:port, rediss:// "
            "(TLS), redis+cluster://a:1,b:2 or redis+sentinel://a:1,b:2?service=name"
        )
    credentials, _, hosts = url.netloc.rpartition("@")
    nodes = [host if ":" in host else f"{host}:6379" for host in hosts.split(",")]
    options = dict(parse_qsl(url.query))
    master = options.pop("service", "mymaster")
    if base == "rediss":
        options["ssl"] = "true"
    if url.path.strip("/") and kind != "cluster":
        options["db"] = url.path.strip("/")
    for name, value in zip(("username", "password"), credentials.split(":", 1), strict=False):
        if value:
            # Feast reads each value as JSON first: an unquoted password of digits would become a number.
            options[name] = json.dumps(unquote(value))
    options["retry"] = "null"
    options.setdefault("socket_timeout", f"{timeout_s:g}")
    options.setdefault("socket_connect_timeout", f"{2 * timeout_s:g}")
    for name, value in options.items():
        if "," in value:
            raise SettingError(
                f"AISLE_REDIS_URL: found a comma in {name}; Feast separates options by commas, choose another"
            )
    text = ",".join([*nodes, *(f"{name}={value}" for name, value in options.items())])
    return _REDIS_TYPES[kind], text, master


def _write_json(path: Path, data: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, indent=1, sort_keys=True))
    part.replace(path)
