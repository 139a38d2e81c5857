"""Histograms of oriented gradients: a picture's shape as a vector, without anything to train.

Dalal & Triggs, "Histograms of Oriented Gradients for Human Detection" (2005): who has a few hundred photos
cannot train a network from scratch that sees more. Nobody's label is in it, so the vectors of products that a
head learns from are as good as those of any other, and no better.

Shapes: B pictures, C 3 colours, H = W = size pixels, O orientations, G cells a side.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, pad

ORIENTATIONS = 9  # of 180 degrees: a dark edge on white is the same edge as a white one on dark
CELLS = 8  # a side
DIM = ORIENTATIONS * CELLS**2
_CLIP = 0.2  # most that one orientation may have of its neighbourhood's strength
_FLAT = 0.01  # strength of a neighbourhood that counts as having no edges


class OrientedGradients(nn.Module):
    """Normalised pixels [B, 3, H, W] of any size to vectors [B, DIM]."""

    orientation_O: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # A buffer, so that the encoder has a device and its file something to hold.
        self.register_buffer("orientation_O", torch.arange(ORIENTATIONS).float())

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        edge_BOHW = self._edges(pixels_BCHW)
        pool_GH = _tents(pixels_BCHW.shape[2], pixels_BCHW.device)
        cell_BOGG = pool_GH @ edge_BOHW @ pool_GH.T
        return _normalised(cell_BOGG).mean(dim=0).flatten(1)

    def _edges(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """The strength of each pixel's edge [B, O, H, W], shared by the two orientations that are nearest to
        its own. Of the three colours the one with the strongest edge speaks."""
        around = pad(pixels_BCHW, (1, 1, 1, 1), mode="replicate")
        across = around[:, :, 1:-1, 2:] - around[:, :, 1:-1, :-2]
        down = around[:, :, 2:, 1:-1] - around[:, :, :-2, 1:-1]
        strength_BCHW = across.square() + down.square()
        strongest = strength_BCHW.argmax(dim=1, keepdim=True)
        across, down = across.gather(1, strongest), down.gather(1, strongest)
        place_B1HW = torch.atan2(down, across).remainder(math.pi) * (ORIENTATIONS / math.pi)
        away_BOHW = (place_B1HW - self.orientation_O.view(1, -1, 1, 1)).abs()
        away_BOHW = torch.minimum(away_BOHW, ORIENTATIONS - away_BOHW)
        share_BOHW = (1 - away_BOHW).clamp_min(0)
        return share_BOHW * strength_BCHW.gather(1, strongest).sqrt()


def _tents(size: int, device: torch.device) -> torch.Tensor:
    """Weights [G, H] of pixels in cells: a pixel between two middles is shared by both."""
    width = size / CELLS
    middle_G1 = (torch.arange(CELLS, device=device) + 0.5).view(-1, 1) * width
    pixel_H = torch.arange(size, device=device) + 0.5
    return (1 - (pixel_H - middle_G1).abs() / width).clamp_min(0) / width


def _normalised(cell_BOGG: torch.Tensor) -> torch.Tensor:
    """[4, B, O, G, G]: each cell by the strength of the four neighbourhoods of 2 x 2 cells around it."""
    energy = pad(cell_BOGG.square().sum(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    energy = 4 * avg_pool2d(energy, 2, stride=1)
    corners = [
        energy[:, :, down : down + CELLS, across : across + CELLS] for down in (0, 1) for across in (0, 1)
    ]
    return torch.stack([(cell_BOGG / (corner + _FLAT).sqrt()).clamp_max(_CLIP) for corner in corners])
