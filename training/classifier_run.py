"""What a run tells of the classifier that it registered: all of it is in the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aisle.bundle import Bundle
from training.confidence import Bin, RiskCoverage
from training.figures import draw_reliability, draw_risk_coverage, png
from training.runs import Run, harmless


@harmless("classifier")
def tell_classifier(run: Run, bundle: Bundle, tag: str) -> None:
    """Settings, the course of training, figures, data and encoders of a registered classifier; the run gets
    its version for a name."""
    card, metrics = bundle.card, bundle.metrics
    data = card["data"]
    run.settings({name: card[name] for name in ("fit", "text_encoder", "image_encoder")})
    run.settings({"splits": data["splits"]})
    run.dataset(str(data["catalog"]).rpartition("/")[2], data["fingerprint"], str(data["catalog"]))
    run.course(card["history"])
    sets = {name: value for name, value in (metrics["prediction_sets"] or {}).items() if name != "per_class"}
    run.metrics({**metrics, "prediction_sets": sets, "data": {"products": data["products"]}})
    run.tags(
        bundle=tag, text_encoder=bundle.text_encoder.revision, image_encoder=bundle.image_encoder.revision
    )
    run.json("card.json", card)
    run.json("metrics.json", metrics)
    run.rename(tag.partition(":")[2])
    _tell_pictures(run, metrics)


@harmless("pictures")
def _tell_pictures(run: Run, metrics: Mapping[str, Any]) -> None:
    bins = [Bin(**one) for one in metrics["reliability"]]
    run.file("reliability.png", png(draw_reliability(bins, ece=metrics["ece"])))
    share, error = metrics["accepted_share"], metrics["accepted_error"]
    curves = {"fused": RiskCoverage(**metrics["risk_coverage"])}
    accepted = None if error is None else (share, error)
    drawing = draw_risk_coverage(curves, target_error=metrics["target_error"], accepted=accepted)
    run.file("risk-coverage.png", png(drawing))
