"""What text and image each add to an answer.

The network answers with both, with the text alone and with the image alone. From these three and from "any
category alike" the Shapley values of the two parts follow (Shapley, 1953): each part's gain in the answer's
log-probability, averaged over who comes first. They add up to the whole gain, and nothing is sampled.
Shapes: B products, C categories, P = 3 presence patterns (both, text alone, image alone).
"""

from __future__ import annotations

import numpy as np

_LEAST = 1e-9  # of a probability: a part that rules the answer out says so in 30 bits, not in infinity


def contributions(
    probabilities_PBC: np.ndarray, answer_B: np.ndarray, pattern_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(text, image) bits [B] for the category `answer_B` of each product; NaN where the part is absent.
    `pattern_B` are indices into PATTERNS."""
    classes = probabilities_PBC.shape[2]
    chosen_PB = probabilities_PBC[:, np.arange(len(answer_B)), answer_B].astype(np.float64)
    both_B, text_B, image_B = np.log2(np.maximum(chosen_PB, _LEAST)) + np.log2(classes)
    text_bits_B = np.select(
        [pattern_B == 0, pattern_B == 1], [(text_B + both_B - image_B) / 2, text_B], default=np.nan
    )
    image_bits_B = np.select(
        [pattern_B == 0, pattern_B == 2], [(image_B + both_B - text_B) / 2, image_B], default=np.nan
    )
    return text_bits_B, image_bits_B
