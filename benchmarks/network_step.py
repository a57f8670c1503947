"""One step of UniPT on packed rows against a straightforward reading of its formulas.

The reference is written layer by layer on padded tensors, as one would write it with the paper in
hand: each layer has its own Linear, LayerNorm and attention. Both read the same float16 hidden
states (BERT-base size: 13 layers x 768, reduction 2, batch 32) and do forward, mean over real
tokens, a linear head, cross-entropy and backward; the optimizer costs both the same and is left
out. Memory is what a process grows by while it steps, its inputs not counted.
Targets: at least 1.5 times the reference's speed and never more memory at lengths of 8 to 32
padded to 32; at 24 to 32 tokens in bfloat16 420 samples a second on 2 cores whose bfloat16 products
are twice as fast as float32. The same step's matrix products alone say what a machine can give.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from padded_loop import PaddedLoop, mean_of_tokens
from report import Figure, Rounds, parser, resident, show
from torch import Tensor, nn
from torch.nn import functional as F

from cache_schema import FeatureBatch, LayerSpec, RowLayout, StreamBatch, StreamSpec
from trainer.networks import UniPTConfig, build_network
from trainer.pooling import mean

LAYERS, WIDTH, REDUCED, BATCH, CLASSES = 13, 768, 384, 32, 4
Step = Callable[[], Tensor]


def draw_lengths(shortest: int, longest: int) -> RowLayout:
    """Lengths of one batch, drawn evenly; one sample has the longest."""
    lengths = np.random.default_rng(0).integers(shortest, longest + 1, BATCH)
    lengths[0] = longest
    return RowLayout.from_lengths(lengths)


def draw_values(layout: RowLayout) -> Tensor:
    """(N, L, D) float16 hidden states."""
    torch.manual_seed(0)
    return torch.randn(layout.num_rows, LAYERS, WIDTH).half()


def packed_step(layout: RowLayout, *, bfloat16: bool) -> Step:
    """Forward and backward of our network on packed rows."""
    layers = tuple(LayerSpec(index=i, module=f"{i}", final_norm=None) for i in range(LAYERS))
    network = build_network(UniPTConfig(), [StreamSpec(name="tokens", width=WIDTH, layers=layers)])
    head = nn.Linear(WIDTH, CLASSES)
    stream = StreamBatch(draw_values(layout), layout)
    batch = FeatureBatch({"tokens": stream}, torch.arange(BATCH))

    def forward() -> Tensor:
        features = network(batch)
        logits: Tensor = head(mean(features.rows, features.layout))
        return logits

    return step(forward, [network, head], bfloat16=bfloat16)


def padded_step(layout: RowLayout, *, bfloat16: bool) -> Step:
    """Forward and backward of the reference on padded tensors."""
    network, head = PaddedLoop(LAYERS, WIDTH, REDUCED), nn.Linear(WIDTH, CLASSES)
    layers = [part.contiguous() for part in layout.pad(draw_values(layout)).unbind(2)]
    mask = layout.mask().float()
    dtype = torch.bfloat16 if bfloat16 else torch.float32

    def forward() -> Tensor:
        rows = network([hidden.to(dtype) for hidden in layers], mask)
        logits: Tensor = head(mean_of_tokens(rows, mask))
        return logits

    return step(forward, [network, head], bfloat16=bfloat16)


def step(forward: Callable[[], Tensor], modules: list[nn.Module], *, bfloat16: bool) -> Step:
    """Forward, cross-entropy and backward, with fresh gradients each time."""
    labels = torch.arange(BATCH) % CLASSES

    def run() -> Tensor:
        for module in modules:
            module.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(forward().float(), labels)
        loss.backward()
        return loss

    return run


def products_step(layout: RowLayout, *, bfloat16: bool) -> Step:
    """Only the large matrix products of the step: each layer's map and its weight gradient."""
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    rows = torch.randn(layout.num_rows, WIDTH).to(dtype)
    weight = torch.randn(REDUCED, WIDTH).to(dtype)

    def run() -> Tensor:
        for _ in range(LAYERS):
            reduced = rows @ weight.T
            product = reduced.T @ rows
        return product

    return run


STEPS = {"packed": packed_step, "padded": padded_step, "products": products_step}


def speeds(shortest: int, longest: int, *, bfloat16: bool, repeats: int) -> Rounds:
    """Samples per second of ours, the reference and the products alone, run in turn."""
    layout = draw_lengths(shortest, longest)

    def rate(run: Step) -> Callable[[], float]:
        def measure() -> float:
            started = time.perf_counter()
            for _ in range(3):
                run()
            return 3 * BATCH / (time.perf_counter() - started)

        return measure

    return Rounds(
        {name: rate(make(layout, bfloat16=bfloat16)) for name, make in STEPS.items()}, repeats
    )


def peak_memory(name: str) -> float:
    """MiB that a fresh process grows by while it makes three steps at lengths of 8 to 32."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_grown, (name,))


def _grown(name: str) -> float:
    run = STEPS[name](draw_lengths(8, 32), bfloat16=False)
    # Linux: forget the peak so far, so that what made the inputs does not count.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    for _ in range(3):
        run()
    return resident("VmHWM") - before


def main() -> int:
    """Print every figure."""
    options = parser(__doc__).parse_args()
    figures = []
    for shortest, bfloat16 in ((8, False), (8, True), (24, False), (24, True)):
        rates = speeds(shortest, 32, bfloat16=bfloat16, repeats=options.repeats)
        name = f"network_step/{shortest}-32 tokens {'bfloat16' if bfloat16 else 'float32'}"
        goal = ">= 420" if bfloat16 and shortest == 24 else ""
        figures += [
            Figure(f"{name}, padded loop", rates["padded"], "samples/s"),
            Figure(f"{name}, unipt", rates["packed"], "samples/s", goal),
            Figure(f"{name}, products alone", rates["products"], "samples/s"),
            Figure(
                f"{name}, unipt : padded loop",
                rates.ratio("packed", "padded"),
                "x",
                ">= 1.5" if shortest == 8 and not bfloat16 else "",
            ),
        ]
    memory = {name: peak_memory(name) for name in ("padded", "packed")}
    name = "network_step/8-32 tokens float32, memory of"
    figures += [
        Figure(f"{name} padded loop", memory["padded"], "MiB"),
        Figure(f"{name} unipt", memory["packed"], "MiB", f"<= {memory['padded']:.0f}"),
    ]
    show(figures, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
