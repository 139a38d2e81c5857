"""Products with nearly the same text or the same photo, found without comparing each with each.

Fingerprints are cut into bands; only products that share a band are compared. Two picture
hashes that differ in at most d bits agree in one of d + 1 bands (Manku et al., 2007). Two texts that
share 80 % of their shingles share one of 20 bands of 5 with probability 0.9996 (Leskovec et al., Mining of
Massive Datasets, chapter 3). What is linked to one another is a cluster.

Shapes: N products, L links between two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from training.fingerprints import SIGNATURE, signatures, similarity

PICTURE_BITS = 4  # two pictures that differ in no more are near
TEXT_SIMILARITY = 0.8
TEXT_CHARS = 20  # shorter texts are alike by chance
_BANDS, _ROWS = 20, 5
# In a band that very many share (a seller's boilerplate) each is compared with so many that follow it, not
# with all: the work stays proportional to the catalogue.
PICTURE_REACH, TEXT_REACH = 2_048, 32


def picture_clusters(hash_N: np.ndarray) -> np.ndarray:
    """The cluster of each uint64 hash [N]; alone in one where it is near no other."""
    hashes, place_N = np.unique(hash_N, return_inverse=True)
    links = [np.zeros((0, 2), dtype=np.int64)]

    def near(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.bitwise_count(hashes[one] ^ hashes[other]) <= PICTURE_BITS

    for band in _bit_bands(PICTURE_BITS + 1):
        links.append(_sharing(hashes & band, near, reach=PICTURE_REACH))
    found: np.ndarray = _components(np.concatenate(links), len(hashes))[place_N]
    return found


def text_clusters(texts: Sequence[str]) -> np.ndarray:
    """The cluster of each text [N]; short texts are alone in theirs."""
    distinct, place_N = np.unique(np.array(texts, dtype=object), return_inverse=True)
    long = np.flatnonzero([len(text) >= TEXT_CHARS for text in distinct])
    signature = signatures([distinct[i] for i in long])
    # Three standard deviations below the target may still be near; only those are compared exactly.
    slack = 3 * np.sqrt(TEXT_SIMILARITY * (1 - TEXT_SIMILARITY) / SIGNATURE)

    def likely(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (signature[one] == signature[other]).mean(axis=1) >= TEXT_SIMILARITY - slack

    mixers = np.random.default_rng(27).integers(1, 2**62, size=_ROWS, dtype=np.uint64) | np.uint64(1)
    links = [np.zeros((0, 2), dtype=np.int64)]
    for band in range(_BANDS):
        numbers = signature[:, band * _ROWS : (band + 1) * _ROWS].astype(np.uint64)
        links.append(_sharing((numbers * mixers).sum(axis=1, dtype=np.uint64), likely, reach=TEXT_REACH))
    pairs = long[np.unique(np.concatenate(links), axis=0)]
    cluster_N: np.ndarray = _components(_compared(pairs, distinct), len(distinct))[place_N]
    short_N = np.array([len(text) < TEXT_CHARS for text in texts], dtype=bool)
    cluster_N[short_N] = cluster_N.max(initial=-1) + 1 + np.arange(int(short_N.sum()))
    return cluster_N


def _compared(pairs: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Those of the pairs [L, 2] whose texts are near, as far as clusters need to know: two that are linked
    already by others are not compared."""
    parent: dict[int, int] = {}

    def root(one: int) -> int:
        while one in parent:
            above = parent[one]
            if above in parent:
                parent[one] = parent[above]
            one = above
        return one

    links = []
    for one, other in pairs.tolist():
        first, second = root(one), root(other)
        if first != second and similarity(texts[one], texts[other]) >= TEXT_SIMILARITY:
            parent[second] = first
            links.append((one, other))
    return np.array(links, dtype=np.int64).reshape(-1, 2)


def _bit_bands(count: int) -> list[np.uint64]:
    """Masks that cut 64 bits into `count` bands."""
    edges = np.linspace(0, 64, count + 1).round().astype(int)
    return [
        np.uint64(((1 << high) - 1) ^ ((1 << low) - 1))
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]


def _sharing(
    key_N: np.ndarray, near: Callable[[np.ndarray, np.ndarray], np.ndarray], *, reach: int
) -> np.ndarray:
    """Pairs of positions [L, 2], the smaller first, that have equal keys and are `near`: each position is
    compared with at most `reach` that follow it in the order of keys."""
    order = np.argsort(key_N, kind="stable")
    keys = key_N[order]
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    alive = np.arange(len(keys))
    for step in range(1, reach + 1):
        alive = alive[alive + step < len(keys)]
        alive = alive[keys[alive] == keys[alive + step]]
        if not len(alive):
            break
        one, other = order[alive], order[alive + step]
        found = near(one, other)
        pairs.append(np.sort(np.stack([one[found], other[found]], axis=1), axis=1))
    return np.concatenate(pairs)


def _components(links: np.ndarray, count: int) -> np.ndarray:
    ones = np.ones(len(links), dtype=bool)
    graph = coo_array((ones, (links[:, 0], links[:, 1])), shape=(count, count))
    clusters: np.ndarray = connected_components(graph, directed=False)[1]
    return clusters.astype(np.int64)
