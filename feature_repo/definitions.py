"""The feature views, one pair a modality and encoder revision; Feast executes this file.

Which views there are is a fact of the shop: `training encode` notes each in its folder, and
`training fit` notes which of them a classifier version reads.
"""

import logging
import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, String

from aisle.features import ENTITY, JOIN_KEY, ViewSpec, embedding_view_of, load_services, load_specs

FEATURES = Path(os.environ["AISLE_FEAST_FEATURES"])

product = Entity(
    name=ENTITY,
    join_keys=[JOIN_KEY],
    value_type=ValueType.STRING,
    description="a marketplace listing",
)


def tags_of(spec: ViewSpec) -> dict[str, str]:
    return {
        "modality": spec.modality,
        "encoder": spec.encoder,
        "revision": spec.revision,
        "dim": str(spec.dim),
        "dtype": spec.dtype,
        "pooling": spec.pooling,
    }


def first_shard(spec: ViewSpec) -> Path:
    """The lowest shard there is: a damaged one may have been deleted, and a view without products has none,
    so that any name will do (Feast opens it for materialising alone, which Aisle does not)."""
    folder = spec.folder(FEATURES)
    finished = (path.with_suffix(".parquet") for path in folder.glob("shard-*.json"))
    return min(finished, default=folder / "shard-00000.parquet")


def embedding_view(spec: ViewSpec) -> FeatureView:
    """Online: the vector, and the hash of what it was made from."""
    return FeatureView(
        name=spec.embedding_view,
        entities=[product],
        ttl=timedelta(0),
        schema=[
            Field(name=JOIN_KEY, dtype=String),
            # vector_index with vector_length makes Feast refuse a vector of another length.
            Field(name="embedding", dtype=Array(Float32), vector_index=True, vector_length=spec.dim),
            Field(name="source_hash", dtype=String),
        ],
        source=FileSource(
            name=f"{spec.embedding_view}_shards",
            path=str(first_shard(spec)),
            timestamp_field="event_timestamp",
        ),
        online=True,
        tags=tags_of(spec),
    )


def index_view(spec: ViewSpec) -> FeatureView:
    """Offline: where the vector lies, so that point-in-time joins carry no vectors."""
    return FeatureView(
        name=spec.index_view,
        entities=[product],
        ttl=timedelta(0),
        schema=[
            Field(name=JOIN_KEY, dtype=String),
            Field(name="shard", dtype=Int64),
            Field(name="row", dtype=Int64),
            Field(name="source_hash", dtype=String),
        ],
        source=FileSource(
            name=f"{spec.index_view}_file",
            path=str(spec.folder(FEATURES) / "index.parquet"),
            timestamp_field="event_timestamp",
        ),
        online=False,
        tags=tags_of(spec),
    )


def feature_services(embeddings: dict[str, FeatureView]) -> list[FeatureService]:
    """One a classifier. One whose views were deleted is named and left as the registry has it: an old
    classifier must not keep a new one from being published."""
    services = []
    for service in load_services(FEATURES):
        views = (
            embedding_view_of("text", service.text_revision),
            embedding_view_of("image", service.image_revision),
        )
        missing = [view for view in views if view not in embeddings]
        if missing:
            logging.getLogger("aisle.features").warning(
                "%s: found no %s in %s, wanted its folder; left out (encode with its encoders again, or "
                "delete services/%s.json)",
                *(service.name, " and no ".join(missing), FEATURES, service.version),
            )
            continue
        services.append(
            FeatureService(
                name=service.name,
                features=[embeddings[view] for view in views],
                tags={"classifier": service.version},
            )
        )
    return services


specs = load_specs(FEATURES)
embeddings = {spec.embedding_view: embedding_view(spec) for spec in specs}
services = feature_services(embeddings)
# Feast finds objects by looking at a module's names, not into its lists.
globals().update({thing.name: thing for thing in [*embeddings.values(), *map(index_view, specs), *services]})
