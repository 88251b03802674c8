"""The MIL motion teacher in PyTorch, the peer of `mtjax.models.mil` under `tasks.classify.Classifier`: for parity in
tests/models/test_mil_parity.py, for speed in benchmarks/mil_vs_torch.py.

Written from the same description (motion_guidance.md §2) the way one writes PyTorch: `nn.TransformerEncoder` with its fused
projections, masks only where there are any.
"""

import math

import torch
from torch import Tensor, nn


class MotionMIL(nn.Module):
    """Motion rows → class logits. The keywords are those of `mtjax.models.mil.MotionMIL`, with `classes` and `hidden`."""

    def __init__(
        self,
        *,
        classes: int,
        features: int = 51,
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
        feed_forward: int = 256,
        attention: int = 128,
        hidden: int = 256,
        dropout: float = 0.1,
        attention_dropout: bool = False,
    ):
        """`attention_dropout`: drop attention weights too, which `nn.TransformerEncoderLayer` does by default and ours does
        not; without it, both do the same work in a training step."""
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(features, width), nn.LayerNorm(width), nn.ReLU(inplace=True), nn.Dropout(dropout)
        )
        layer = nn.TransformerEncoderLayer(width, heads, feed_forward, dropout, batch_first=True)
        # Nested tensors would need padding at the end only, and shorten the output to the longest clip of the batch.
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.tanh, self.gate = nn.Linear(width, attention), nn.Linear(width, attention)
        self.score = nn.Linear(attention, 1)
        self.head = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )
        self.width = width
        if not attention_dropout:
            for layer in self.encoder.layers:
                layer.self_attn.dropout = 0.0

    def forward(self, motion: Tensor, row_valid: Tensor | None = None) -> Tensor:
        """Logits [b, classes].

        Args:
          motion: [b, t, features]; row_valid: bool [b, t], at least one True in each clip; None: everything is valid.
        """
        padding = None if row_valid is None else ~row_valid
        x = self.project(motion) + self._positions(motion.shape[1]).to(motion)
        x = self.encoder(x, src_key_padding_mask=padding)
        scores = self.score(torch.tanh(self.tanh(x)) * torch.sigmoid(self.gate(x)))[..., 0]
        if padding is not None:
            scores = scores.masked_fill(padding, -torch.inf)
        return self.head(torch.einsum("bt,btd->bd", scores.softmax(-1), x))

    def _positions(self, rows: int) -> Tensor:
        """Sines in even and cosines in odd columns; computed once."""
        if getattr(self, "_table", None) is None or len(self._table) != rows:
            rate = torch.exp(torch.arange(0, self.width, 2) * (-math.log(10_000.0) / self.width))
            angle = torch.arange(rows)[:, None] * rate
            self._table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
        return self._table
