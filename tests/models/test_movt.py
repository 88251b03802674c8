"""MovT: sizes and costs as published, invariances, masks, gradients, the worked example MT-1 and MT-6 to MT-7."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtjax.compute import sharding
from mtjax.compute.optim import Optimizer
from mtjax.compute.step import Net, Program
from mtjax.models import movt
from mtjax.run import complexity
from mtjax.tasks.classify import Classify
from mtjax.types import random_streams

SMALL = {"motion": (8, 8), "branch": 8, "position": (8,), "layers": 2, "heads": 2, "feed_forward": 16}


def small(**changes) -> movt.MovT:
    return movt.MovT(**(SMALL | changes), rngs=random_streams(params=0))


@nnx.jit
def embed(model: movt.MovT, batch: dict) -> jax.Array:
    return model(batch, train=False)


def clip(b=2, t=6, n=5, seed=0) -> dict:
    rng = np.random.default_rng(seed)
    tracks = rng.random((b, t, n, 3)).astype(np.float32)
    tracks[..., 2] = tracks[..., 2] > 0.8
    return {
        "tracks": jnp.asarray(tracks),
        "frame_valid": jnp.ones((b, t), bool),
        "point_valid": jnp.ones((b, n), bool),
    }


def test_mt1_velocity_keeps_t_and_the_position_is_the_mean():
    xy = jnp.array([[0.0, 0.0], [2.0, 1.0], [2.0, 1.0], [5.0, 5.0]])
    tracks = jnp.concatenate([xy, jnp.ones((4, 1))], -1)[None, :, None]
    rows = movt.velocity_and_occlusion(tracks)
    assert rows.shape == (1, 1, 4, 3)
    np.testing.assert_allclose(rows[0, 0, :, :2], [[0, 0], [2, 1], [0, 0], [3, 4]])
    np.testing.assert_allclose(rows[0, 0, :, 2], 1)
    np.testing.assert_allclose(xy.mean(0), [2.25, 1.75])


@pytest.mark.parametrize(
    ("preset", "parameters"), [(movt.CALIBRATED, 5_615_771), (movt.FULL_COUNT, 4_563_411)], ids=["calibrated", "full"]
)
def test_preset_parameter_counts(preset, parameters):
    net = Net(
        lambda key: Classify(num_classes=27).assemble(
            movt.MovT(**preset, rngs=random_streams(params=key)), rngs=random_streams(params=key)
        ),
        nnx.Param,
    )
    params, _ = jax.eval_shape(net.init, jax.random.key(0))
    assert sum(p.size for p in params.values()) == parameters


@pytest.mark.parametrize("chunk", [0, 2])
def test_full_count_preset_costs_what_the_paper_says(chunk):
    program = Program(
        model=lambda rngs: movt.MovT(**movt.FULL_COUNT, chunk=chunk, rngs=rngs),
        task=Classify(num_classes=27),
        prepare=lambda batch, train, key: batch,
        optimizer=Optimizer(lr=1e-4),
        mesh=sharding.make_mesh(),
        seed=0,
        total_steps=1,
    )
    batch = clip(b=8, t=32, n=60) | {"label": jnp.zeros(8, jnp.int32)}
    found = complexity.forward_gmacs(program, batch, 8)
    assert found == pytest.approx(0.4538, abs=0.0001)  # the paper's 0.45 on Jester


def test_mt7_thop_counts_of_the_calibrated_preset():
    found = [complexity.thop_movt(points=60, frames=t, classes=27) for t in (4, 16, 32)]
    assert [round(x, 2) for x in found] == [0.30, 0.39, 0.52]
    assert round(complexity.thop_movt(points=250, frames=90, classes=27), 2) == 4.06
    assert round(complexity.thop_movt(points=60, frames=32, classes=27, static_position=True), 2) == 0.51


def test_mt6_thop_counts_of_videomae_small():
    found = [complexity.thop_videomae(frames=t, classes=27) for t in (1, 2, 4, 16)]
    assert [round(x, 2) for x in found] == [3.19, 3.24, 6.49, 25.95]


def test_permutation_of_points_changes_nothing():
    model, batch = small(), clip()
    order = jnp.array([3, 0, 4, 1, 2])
    permuted = batch | {"tracks": batch["tracks"][:, :, order]}
    np.testing.assert_allclose(embed(model, batch), embed(model, permuted), atol=1e-5)


def test_point_identity_sees_the_order_and_checks_the_number_of_points():
    model, batch = small(point_identity=5), clip()
    permuted = batch | {"tracks": batch["tracks"][:, :, ::-1]}
    assert np.abs(embed(model, batch) - embed(model, permuted)).max() > 1e-3
    with pytest.raises(ValueError, match="point_identity=5, but clips have 7 points"):
        model(clip(n=7), train=False)


def test_padded_points_change_nothing():
    model, batch = small(), clip()
    padded = {
        "tracks": jnp.pad(batch["tracks"], ((0, 0), (0, 0), (0, 3), (0, 0)), constant_values=7.0),
        "frame_valid": batch["frame_valid"],
        "point_valid": jnp.pad(batch["point_valid"], ((0, 0), (0, 3))),
    }
    np.testing.assert_allclose(embed(model, batch), embed(model, padded), atol=1e-5)


def test_padded_frames_change_nothing():
    model, batch = small(), clip()
    padded = {
        "tracks": jnp.pad(batch["tracks"], ((0, 0), (0, 4), (0, 0), (0, 0)), constant_values=7.0),
        "frame_valid": jnp.pad(batch["frame_valid"], ((0, 0), (0, 4))),
        "point_valid": batch["point_valid"],
    }
    np.testing.assert_allclose(embed(model, batch), embed(model, padded), atol=1e-5)


def test_a_clip_without_points_gives_zeros_and_finite_gradients():
    model, batch = small(), clip()
    batch["point_valid"] = batch["point_valid"].at[0].set(False)

    def total(tracks):
        return (model(batch | {"tracks": tracks}, train=False) ** 2).sum()

    assert (np.asarray(embed(model, batch))[0] == 0).all()
    assert np.isfinite(jax.jit(jax.grad(total))(batch["tracks"])).all()


def test_remat_and_dropout_give_the_same_values():
    batch, key = clip(), jax.random.key(3)

    @nnx.jit
    def dropped(model, key):
        return model(batch, train=True, rngs=nnx.Rngs(dropout=key))

    outputs = [dropped(small(remat=r), key) for r in (False, True)]
    np.testing.assert_allclose(*outputs, atol=1e-6)
    other = dropped(small(), jax.random.key(4))
    assert np.abs(outputs[0] - other).max() > 1e-3


def test_bfloat16_compute_is_close_and_keeps_float32_parameters():
    batch = clip()
    half = small(dtype="bfloat16")
    assert {p.dtype for p in jax.tree.leaves(nnx.state(half, nnx.Param))} == {jnp.dtype("float32")}
    with jax.numpy_dtype_promotion("standard"):  # jax.nn.dot_product_attention mixes bfloat16 and float32 inside
        np.testing.assert_allclose(embed(half, batch), embed(small(), batch), atol=0.1)


def test_saliency_is_scaled_per_clip_and_zero_for_padding():
    task = Classify(num_classes=3)
    model = task.assemble(small(), rngs=random_streams(params=1))
    batch = clip()
    batch["point_valid"] = batch["point_valid"].at[:, 4].set(False)
    saliency = np.asarray(nnx.jit(task.saliency)(model, batch, jnp.array([0, 2], jnp.int32)))
    assert saliency.shape == (2, 5)
    np.testing.assert_allclose(saliency.max(1), 1, atol=1e-6)
    assert (saliency[:, 4] == 0).all()
