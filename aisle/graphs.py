"""CUDA graphs at a ladder of fixed sizes: the kernels of a pass are recorded once a size, then replayed.

At the sizes of serving a GPU computes sooner than Python names the next kernel; a graph names them all at
once. They are the same kernels in the same precision. A graph has one shape, so a batch is filled up to the
next size, and what the rows after it come to is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import torch

SIZES = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32)  # rows: what is filled up costs at most half of a batch's work
_WARM_UPS = 3  # passes before one is recorded: libraries choose their kernels in the first ones
_NEAR = 1e-4  # of the largest number: how far a replay may be from the plain pass

Forward = Callable[[torch.Tensor], torch.Tensor]
# Runs a pass over what the given rows hold by then, and leaves its answer in the tensor beside it.
Recorded = tuple[Callable[[], None], torch.Tensor]
Recorder = Callable[[Forward, torch.Tensor], Recorded]

logger = logging.getLogger(__name__)


def cuda_recorder() -> Recorder:
    """What records passes as CUDA graphs that share their memory: only one of them may run at a time."""
    pool = torch.cuda.graph_pool_handle()

    def record(forward: Forward, rows: torch.Tensor) -> Recorded:
        beside = torch.cuda.Stream(rows.device)
        beside.wait_stream(torch.cuda.current_stream(rows.device))
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                forward(rows)
        torch.cuda.current_stream(rows.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on answering meanwhile: what they ask of the GPU does not end this recording.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            answer = forward(rows)
        return graph.replay, answer

    return record


class Graphs:
    """`forward`, a pass over tensors whose first axis are rows that do not touch each other, recorded for
    each of the `examples`: tensors of the shapes that will come, on the device that will run them.

    Other shapes are filled up to the next recorded one by rows. Where a shape cannot be recorded, or is
    recorded wrongly, it is run as a plain pass, and the log says so. Thread-safe, where all threads use the
    device's one default stream, as they do unless told otherwise.
    """

    def __init__(self, forward: Forward, examples: Sequence[torch.Tensor], record: Recorder) -> None:
        self._forward = forward
        self._recorded: dict[tuple[int, ...], tuple[torch.Tensor, Recorded]] = {}
        self._sizes: dict[tuple[int, ...], list[int]] = {}  # rows that are recorded, by the shape of a row
        self._turn = threading.Lock()  # they share their memory
        began = time.perf_counter()
        # The largest first: the others find room in its memory.
        for example in sorted(examples, key=torch.numel, reverse=True):
            self._add(example.clone(), record)
        seconds = time.perf_counter() - began
        logger.info("%d of %d sizes recorded in %.1f s", len(self._recorded), len(examples), seconds)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """What `forward` gives for these rows, in memory of its own."""
        wanted = len(rows)
        size = next((size for size in self._sizes.get(tuple(rows.shape[1:]), ()) if size >= wanted), None)
        if size is None or not wanted:
            return self._forward(rows)
        held, (replay, answer) = self._recorded[size, *rows.shape[1:]]
        with self._turn:
            held[:wanted].copy_(rows)  # the others keep what they held: their answers are dropped
            replay()
            return answer[:wanted].clone()

    def _add(self, held: torch.Tensor, record: Recorder) -> None:
        plain = self._forward(held)
        try:
            replay, answer = record(self._forward, held)
            replay()
            error = float((answer - plain).abs().max() / plain.abs().max())
        except RuntimeError as failure:
            logger.warning("%s are not recorded: %s", list(held.shape), failure)
            return
        if not error <= _NEAR:  # NaN is not near either
            logger.warning("%s are not recorded: the replay is off by %.1g", list(held.shape), error)
            return
        self._recorded[tuple(held.shape)] = (held, (replay, answer))
        sizes = self._sizes.setdefault(tuple(held.shape[1:]), [])
        sizes.append(len(held))
        sizes.sort()
