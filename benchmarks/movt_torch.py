"""MovT in PyTorch, the peer that our Flax model is compared with: for parity in tests/models/test_torch_parity.py, for speed in
benchmarks/step_vs_torch.py.

Written from the same description (movt.md §2) as `mtjax.models.movt`, the way one writes PyTorch: `nn.TransformerEncoder`
with its fused projections and its fast path in inference, `nn.Conv1d` on [b·n, c, t], masks only where there are any.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def mlp(sizes: Sequence[int], *, activate_last: bool) -> nn.Sequential:
    """Linear layers with ReLU between them, and after the last one if `activate_last`."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers if activate_last else layers[:-1])


class MovT(nn.Module):
    """Point tracks → class logits. The keywords are those of `mtjax.models.movt.MovT`, so its presets fit."""

    def __init__(
        self,
        *,
        classes: int,
        motion: Sequence[int],
        branch: int,
        position: Sequence[int],
        fuse: bool,
        heads: int,
        feed_forward: int,
        layers: int = 4,
        kernel: int = 3,
        dropout: float = 0.1,
        attention_dropout: bool = True,
    ):
        """`attention_dropout=False` takes dropout from the attention weights, which `nn.TransformerEncoderLayer` has by
        default and ours has not: the same work as ours in a training step."""
        super().__init__()
        width = 2 * branch
        self.motion = mlp((3, *motion), activate_last=True)
        self.temporal = nn.Conv1d(motion[-1], branch, kernel, padding=kernel // 2)
        self.position = mlp((2, *position, branch), activate_last=False)
        self.fusion = nn.Linear(width, width) if fuse else nn.Identity()
        layer = nn.TransformerEncoderLayer(width, heads, feed_forward, dropout, batch_first=True)
        # Nested tensors would need padding at the end only, and shorten the output to the longest clip of the batch.
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)
        if not attention_dropout:
            for layer in self.encoder.layers:
                layer.self_attn.dropout = 0.0

    def forward(self, tracks: Tensor, frame_valid: Tensor | None = None, point_valid: Tensor | None = None) -> Tensor:
        """Logits [b, classes].

        Args:
          tracks: [b, t, n, 3]: x, y, occluded.
          frame_valid: bool [b, t]; point_valid: bool [b, n], at least one True in each clip; None: everything is valid.
        """
        x = torch.cat([self._motion(tracks, frame_valid), self._position(tracks, frame_valid)], -1)
        x = self.encoder(self.fusion(x), src_key_padding_mask=None if point_valid is None else ~point_valid)
        if point_valid is None:
            return self.head(x.mean(1))
        weight = point_valid[:, :, None]
        return self.head(x.masked_fill(~weight, 0.0).sum(1) / weight.sum(1))

    def _motion(self, tracks: Tensor, frame_valid: Tensor | None) -> Tensor:
        """[b, n, branch]."""
        b, t, n, _ = tracks.shape
        xy = tracks[..., :2]
        velocity = torch.cat([torch.zeros_like(xy[:, :1]), xy[:, 1:] - xy[:, :-1]], 1)
        invalid = None if frame_valid is None else ~frame_valid[:, None, :, None]
        if invalid is not None:
            velocity = velocity.masked_fill(invalid.transpose(1, 2), 0.0)
        x = self.motion(torch.cat([velocity, tracks[..., 2:]], -1).transpose(1, 2))  # [b, n, t, c]
        if invalid is not None:
            x = x.masked_fill(invalid, 0.0)
        x = self.temporal(x.reshape(b * n, t, -1).transpose(1, 2)).relu().view(b, n, -1, t)
        if invalid is not None:
            x = x.masked_fill(invalid.transpose(2, 3), -torch.inf)
        return x.amax(-1)

    def _position(self, tracks: Tensor, frame_valid: Tensor | None) -> Tensor:
        """[b, n, branch]: of the mean position over all valid frames."""
        if frame_valid is None:
            return self.position(tracks[..., :2].mean(1))
        weight = frame_valid[:, :, None, None].to(tracks.dtype)
        return self.position((tracks[..., :2] * weight).sum(1) / weight.sum(1))
