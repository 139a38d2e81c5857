"""The one path from a product to a prediction: evaluation, bulk scoring and serving all use it.

Shapes: B products, D and E embedding widths of text and image, C categories, P = 3 presence patterns
(both, text alone, image alone).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aisle.bundle import Bundle
from aisle.calibration import PATTERNS, pattern_index
from aisle.decisions import Decider, Decisions
from aisle.errors import BundleError, ProductError
from aisle.explanation import contributions
from aisle.fusion import fusion_logits
from aisle.graphs import cuda_recorder
from aisle.image import ImageEncoder, ImageSettings, decode_with_size, image_hash
from aisle.neighbours import Neighbours
from aisle.packed import pack
from aisle.prediction import (
    DEFAULT_TOP_K,
    Candidate,
    Explanation,
    Neighbour,
    Prediction,
    PredictionSet,
    Source,
)
from aisle.product import Product
from aisle.taxonomy import Taxonomy
from aisle.text import TextEncoder, TextSettings, clean_text, text_hash


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Item:
    """A product after preprocessing: what travels through the batching queue.

    `pixels_HWC` is uint8 [size, size, 3], `image_size` (width, height) as uploaded. None means that the
    request gave no such part.
    """

    product_id: str | None = None
    text: str | None = None
    text_hash: str | None = None
    pixels_HWC: np.ndarray | None = None
    image_hash: str | None = None
    image_size: tuple[int, int] | None = None
    description_missing: bool = True
    top_k: int = DEFAULT_TOP_K
    explain: bool = False


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stored:
    """What the feature store holds for one product; None where it holds nothing."""

    text_vector_D: np.ndarray | None = None
    text_hash: str | None = None
    image_vector_E: np.ndarray | None = None
    image_hash: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """The vectors of a batch, float32; the row of an absent modality is zero and is never read."""

    text_BD: np.ndarray
    image_BE: np.ndarray
    text_source: Sequence[Source]
    image_source: Sequence[Source]

    def presence(self) -> np.ndarray:
        """Float32 [B, 2]: 1 where (text, image) is there."""
        sources = zip(self.text_source, self.image_source, strict=True)
        rows = [(text is not Source.ABSENT, image is not Source.ABSENT) for text, image in sources]
        return np.array(rows, dtype=np.float32).reshape(-1, 2)

    def rows(self, index: Sequence[int]) -> Embedded:
        """The products at these positions."""
        return Embedded(
            text_BD=self.text_BD[index],
            image_BE=self.image_BE[index],
            text_source=[self.text_source[row] for row in index],
            image_source=[self.image_source[row] for row in index],
        )


def prepare_product(
    product: Product,
    text_settings: TextSettings,
    image_settings: ImageSettings,
    *,
    top_k: int = DEFAULT_TOP_K,
    explain: bool = False,
) -> Item:
    """Clean the text and decode the picture. Raises ProductError."""
    if product.is_empty:
        raise ProductError(
            "product_empty",
            field="product",
            found="no title, description, image or product_id",
            wanted="at least one of them",
        )
    text = clean_text(product.title, product.description, text_settings)
    if not (text or product.image or product.product_id):
        raise ProductError(
            "product_empty",
            field="product",
            found="text of which cleaning leaves nothing",
            wanted="words, an image or a product_id",
        )
    pixels_HWC = size = digest = None
    if product.image is not None:
        pixels_HWC, size = decode_with_size(product.image, image_settings)
        digest = image_hash(product.image)
    return Item(
        product_id=product.product_id,
        text=text or None,
        text_hash=text_hash(text) if text else None,
        pixels_HWC=pixels_HWC,
        image_hash=digest,
        image_size=size,
        description_missing=not product.description.strip(),
        top_k=top_k,
        explain=explain,
    )


class Classifier:
    """A bundle with the encoders it was trained with. Reading methods are thread-safe.

    Raises BundleError when an encoder is not the revision or width that the bundle names.
    """

    def __init__(
        self,
        bundle: Bundle,
        text_encoder: TextEncoder,
        image_encoder: ImageEncoder,
        *,
        version: str = "",
        device: str = "cpu",
    ) -> None:
        for modality, encoder, wanted in (
            ("text", text_encoder, bundle.text_encoder),
            ("image", image_encoder, bundle.image_encoder),
        ):
            found = (encoder.revision, encoder.dim)
            if found != (wanted.revision, wanted.dim):
                raise BundleError(
                    f"{modality} encoder: found revision {found[0]} of width {found[1]}, "
                    f"the bundle was trained with {wanted.revision} of width {wanted.dim}"
                )
        self.bundle = bundle
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder
        self.version = version
        self.fusion = bundle.fusion.to(device).eval()
        self.device = device
        self._decider = Decider(bundle.calibration, len(bundle.taxonomy))

    def optimise(self) -> Classifier:
        """Make this classifier quicker, in place, and return it: on a CPU by packed layers (aisle/packed.py),
        by which vectors move by less than 1e-6, on a GPU by recorded passes (aisle/graphs.py). An encoder
        that another classifier has too is left as that has made it."""
        if self.device == "cpu":
            self.text_encoder.pack()
            self.image_encoder.pack()
            pack(self.fusion)
            return self
        for encoder in (self.text_encoder, self.image_encoder):
            if not encoder.is_recorded:
                encoder.record(cuda_recorder())
        return self

    @property
    def taxonomy(self) -> Taxonomy:
        return self.bundle.taxonomy

    def prepare(self, product: Product, top_k: int = DEFAULT_TOP_K, *, explain: bool = False) -> Item:
        """Clean the text and decode the picture. Raises ProductError, for this product alone."""
        settings = (self.text_encoder.settings, self.image_encoder.settings)
        return prepare_product(product, *settings, top_k=top_k, explain=explain)

    def encode_images(self, items: Sequence[Item]) -> dict[int, np.ndarray]:
        """Vectors [E] of all pictures that are given, by position: for `embed`, while it is not yet known
        what is stored."""
        rows = [row for row, item in enumerate(items) if item.pixels_HWC is not None]
        return dict(zip(rows, self._encode_images(items, rows), strict=True)) if rows else {}

    def _encode_images(self, items: Sequence[Item], rows: Sequence[int]) -> np.ndarray:
        pixels = [pixels_HWC for row in rows if (pixels_HWC := items[row].pixels_HWC) is not None]
        return self.image_encoder.encode(np.stack(pixels))

    def embed(
        self,
        items: Sequence[Item],
        stored: Sequence[Stored] | None = None,
        encoded: Mapping[int, np.ndarray] | None = None,
    ) -> Embedded:
        """Vectors of a batch. A stored vector is used when the request gives no such part, or gives
        the very part it was made from (same hash); what is left is computed, in one pass a modality,
        but for the pictures in `encoded`, which `encode_images` gave.
        """
        stored = stored if stored is not None else [Stored()] * len(items)
        text_BD = np.zeros((len(items), self.text_encoder.dim), dtype=np.float32)
        image_BE = np.zeros((len(items), self.image_encoder.dim), dtype=np.float32)
        text_source = [Source.ABSENT] * len(items)
        image_source = [Source.ABSENT] * len(items)
        texts: list[tuple[int, str]] = []
        images: list[int] = []
        encoded = encoded or {}
        for row, (item, held) in enumerate(zip(items, stored, strict=True)):
            if held.text_vector_D is not None and item.text_hash in (None, held.text_hash):
                text_BD[row], text_source[row] = held.text_vector_D, Source.STORED
            elif item.text is not None:
                texts.append((row, item.text))
                text_source[row] = Source.COMPUTED
            if held.image_vector_E is not None and item.image_hash in (None, held.image_hash):
                image_BE[row], image_source[row] = held.image_vector_E, Source.STORED
            elif item.pixels_HWC is not None:
                image_source[row] = Source.COMPUTED
                if row in encoded:
                    image_BE[row] = encoded[row]
                else:
                    images.append(row)
        if texts:
            text_BD[[row for row, _ in texts]] = self.text_encoder.encode([text for _, text in texts])
        if images:
            image_BE[images] = self._encode_images(items, images)
        return Embedded(
            text_BD=text_BD, image_BE=image_BE, text_source=text_source, image_source=image_source
        )

    def decide(
        self, embedded: Embedded, top_k: int | Sequence[int] = DEFAULT_TOP_K
    ) -> list[Prediction | ProductError]:
        """Calibrated answers, item by item: what is wrong with one is a value in its own place."""
        decisions = self.judge(embedded)
        top_ks = [top_k] * len(decisions) if isinstance(top_k, int) else top_k
        return [self._answer(embedded, decisions, row, top_ks[row]) for row in range(len(decisions))]

    def judge(self, embedded: Embedded) -> Decisions:
        """What `decide` makes its answers of: the same decisions, as arrays."""
        return self._decider.decide(self.probabilities(embedded), pattern_index(self.read_of(embedded)))

    def read_of(self, embedded: Embedded) -> np.ndarray:
        """Float32 [B, 2]: 1 where (text, image) is there and the network has learned from such."""
        read_B2: np.ndarray = embedded.presence() * np.array(self.fusion.settings.reads, dtype=np.float32)
        return read_B2

    def predict(
        self, items: Sequence[Item], stored: Sequence[Stored] | None = None
    ) -> list[Prediction | ProductError]:
        """`decide(embed(items, stored))`, with each item's own top_k, and explained where it asks for it."""
        embedded = self.embed(items, stored)
        answers = self.decide(embedded, [item.top_k for item in items])
        return self.explained(embedded, answers, [item.explain for item in items])

    def explained(
        self, embedded: Embedded, answers: list[Prediction | ProductError], asked: Sequence[bool]
    ) -> list[Prediction | ProductError]:
        """The same answers, with an explanation of those that ask for one. Where none does, nothing is
        computed."""
        rows = [row for row, answer in enumerate(answers) if asked[row] and isinstance(answer, Prediction)]
        if not rows:
            return answers
        predictions = [answer for answer in (answers[row] for row in rows) if isinstance(answer, Prediction)]
        reasons = self._explain(embedded.rows(rows), predictions)
        explained = list(answers)
        for row, prediction, reason in zip(rows, predictions, reasons, strict=True):
            explained[row] = replace(prediction, explanation=reason)
        return explained

    def _explain(self, embedded: Embedded, answers: Sequence[Prediction]) -> list[Explanation]:
        present_B2 = self.read_of(embedded)
        answer_B = np.array([self.taxonomy.index(answer.category.code) for answer in answers])
        text_bits_B, image_bits_B = contributions(
            self.probabilities(embedded), answer_B, pattern_index(present_B2)
        )
        near: list[tuple[Neighbour, ...]] = [()] * len(answers)
        if self.bundle.neighbours is not None:
            near = self._nearest(self.bundle.neighbours(), embedded, present_B2)
        return [
            Explanation(
                text_bits=float(text_bits_B[row]) if present_B2[row, 0] else None,
                image_bits=float(image_bits_B[row]) if present_B2[row, 1] else None,
                neighbours=near[row],
            )
            for row in range(len(answers))
        ]

    def _nearest(
        self, neighbours: Neighbours, embedded: Embedded, present_B2: np.ndarray
    ) -> list[tuple[Neighbour, ...]]:
        place_BK, similarity_BK = neighbours.nearest(embedded.text_BD, embedded.image_BE, present_B2)
        return [
            tuple(
                Neighbour(
                    product_id=neighbours.product_ids[place],
                    category=self.taxonomy[int(neighbours.label_M[place])],
                    similarity=similarity,
                )
                for place, similarity in zip(places, similarities, strict=True)
            )
            for places, similarities in zip(place_BK.tolist(), similarity_BK.tolist(), strict=True)
        ]

    def probabilities(self, embedded: Embedded) -> np.ndarray:
        """Calibrated probabilities [P, B, C]: with both modalities, text alone, image alone.

        Row [0, b] is meant only where both are there, [1, b] where text is, [2, b] where the image is.
        """
        logits_PBC = fusion_logits(self.fusion, embedded.text_BD, embedded.image_BE, device=self.device)
        patterns = (self.bundle.calibration.patterns[name] for name in PATTERNS)
        scaled_PBC = np.stack([p.scale(logits_BC) for p, logits_BC in zip(patterns, logits_PBC, strict=True)])
        exp_PBC = np.exp(scaled_PBC - scaled_PBC.max(axis=2, keepdims=True))
        probabilities: np.ndarray = exp_PBC / exp_PBC.sum(axis=2, keepdims=True)
        return probabilities

    def _answer(
        self, embedded: Embedded, decisions: Decisions, row: int, top_k: int
    ) -> Prediction | ProductError:
        if decisions.pattern_B[row] < 0:
            return ProductError(
                "nothing_known",
                field="product_id",
                found=f"{self._nothing()}, given or stored",
                wanted="a title, a description, an image, or an id that the feature store knows",
            )
        if not decisions.finite_B[row]:
            return ProductError(
                "vector_not_finite",
                field="product",
                found="an embedding that is not finite",
                wanted="finite numbers; encode and publish this product again",
            )
        categories = self.taxonomy.categories
        best = decisions.order_BC[row].tolist()
        likeliest = decisions.probability_BC[row, : max(1, top_k)].tolist()
        top = tuple(
            Candidate(category=categories[i], probability=p) for i, p in zip(best, likeliest, strict=False)
        )
        return Prediction(
            category=top[0].category,
            confidence=top[0].probability,
            accepted=bool(decisions.accepted_B[row]),
            top=top,
            text_only=self._alone(decisions, row, 0),
            image_only=self._alone(decisions, row, 1),
            text_source=embedded.text_source[row],
            image_source=embedded.image_source[row],
            prediction_set=self._set(decisions, row),
        )

    def _nothing(self) -> str:
        reads_text, reads_image = self.fusion.settings.reads
        if reads_text and reads_image:
            return "no text and no image"
        return f"no {'text' if reads_text else 'image'}, which is all that this model reads"

    def _alone(self, decisions: Decisions, row: int, modality: int) -> Candidate | None:
        if decisions.pattern_B[row] not in (0, 1 + modality):
            return None
        return Candidate(
            category=self.taxonomy[int(decisions.alone_2B[modality, row])],
            probability=float(decisions.alone_probability_2B[modality, row]),
        )

    def _set(self, decisions: Decisions, row: int) -> PredictionSet | None:
        coverage = float(decisions.coverage_B[row])
        if not coverage:
            return None
        chosen = decisions.order_BC[row, decisions.inside_BC[row]].tolist()
        return PredictionSet(codes=tuple(self.taxonomy[i].code for i in chosen), coverage=coverage)
