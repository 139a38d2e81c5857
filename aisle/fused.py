"""A convolutional network as one flat list of calls, activations computed by the convolutions before them.

Of MobileNetV3-Small on a CPU a fifth goes into activations that walk once more over what oneDNN has just
written, and, in small batches, into torch's modules calling each other. Both go: torch.fx writes the network
down as one function, and oneDNN applies an activation to a convolution's sums while it has them (what
TorchInductor does with a frozen network, without its compiler).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from aisle.packed import PackedConv2d, is_packed

# How oneDNN calls an activation, and with which numbers.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.SiLU: ("swish", []),
    nn.Sigmoid: ("sigmoid", []),
}
_NONE: tuple[str, list[float]] = ("none", [])
_TRACING = threading.Lock()  # what torch.fx changes for the while, two at once would not change back
_NOTHING = (nn.Identity, nn.Dropout)  # of a network that is not trained


def fuse(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """`model`, which `pack` has packed, for fp32 on a CPU, in inference mode and eval mode. The weights are
    those of now: what is changed in the model later is not seen.

    Raises torch.fx.proxy.TraceError, or what the model raises, where it cannot be written down: where what it
    computes next depends on a value.
    """
    with _TRACING:
        graph = _Tracer().trace(model)
    flat = fx.GraphModule(model, graph)
    layers = dict(model.named_modules())
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(layers[node.target], _NOTHING):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(layer := layers[node.target], PackedConv2d):
            _fuse_convolution(flat, node, layer, layers)
    graph.lint()
    flat.recompile()
    return flat


class _Tracer(fx.Tracer):
    """Takes packed layers, too, as they are; and lets other threads alone. While it traces, torch.fx hears of
    every call of every module in the process, and a model may be loaded while another answers."""

    def __init__(self) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]  # none
        self._thread = threading.get_ident()

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return is_packed(module) or super().is_leaf_module(module, qualified_name)


def _fuse_convolution(
    flat: fx.GraphModule, node: fx.Node, layer: PackedConv2d, layers: dict[str, nn.Module]
) -> None:
    """Let the convolution at `node`, and the activation that alone reads it, be one call."""
    last, activation = node, _NONE
    readers = list(node.users)
    if len(readers) == 1 and readers[0].op == "call_module":
        activation = _ACTIVATIONS.get(type(layers[str(readers[0].target)]), _NONE)
        last = node if activation is _NONE else readers[0]
    stem = f"fused_{node.name}"
    flat.register_buffer(f"{stem}_weight", layer.packed_weight(), persistent=False)
    bias = None
    with flat.graph.inserting_before(node):
        weight = flat.graph.get_attr(f"{stem}_weight")
        if layer.bias is not None:
            flat.register_buffer(f"{stem}_bias", layer.bias.detach(), persistent=False)
            bias = flat.graph.get_attr(f"{stem}_bias")
        call = flat.graph.call_function(
            torch.ops.mkldnn._convolution_pointwise.default,
            (node.args[0], weight, bias, *layer.geometry, *activation, ""),
        )
    last.replace_all_uses_with(call)
    if last is not node:
        flat.graph.erase_node(last)
    flat.graph.erase_node(node)
