"""A batch that does not divide over the devices is padded, and nothing that is learnt or scored depends on it."""

import functools
import json

import jax
import numpy as np
import pytest
from conftest import config_of, image_bytes, make_dataset, make_tracks_dataset, run_main, tiny_config, write_config
from jax import numpy as jnp

from mtjax import records
from mtjax.compute import sharding
from mtjax.lookup import ConfigError
from mtjax.models.batch_norm import BatchNorm
from mtjax.models.video_network import ConvNorm, VideoNetwork
from mtjax.run.experiment import Experiment
from mtjax.run.initial_weights import weights_of
from mtjax.run.metrics_log import read_metrics

TWO_STEPS = {"steps": 2, "log_every": 1}


class Tiny(VideoNetwork):
    """Two stages of one convolution each."""

    def __init__(self, *, rngs):
        conv = functools.partial(ConvNorm, dtype=jnp.dtype("float32"), rngs=rngs)
        super().__init__(
            {"stem": [conv(3, 4, (1, 3, 3), stride=(1, 2, 2))], "layer1": [conv(4, 8, (3, 1, 1))]}, width=8, channels=3,
            reads="frames", frozen=(), remat=True, dtype=jnp.dtype("float32"),
        )  # fmt: skip


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    return make_tracks_dataset(tmp_path_factory.mktemp("tracks") / "data", clips=30)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    rng = np.random.default_rng(0)
    names = [f"{split}-{i:03}" for split in ("train", "test") for i in range(5)]
    pictures = {n: [image_bytes(p) for p in rng.integers(0, 256, (6, 18, 20, 3), np.uint8)] for n in names}
    columns_of = {"frames": {"frames": (records.Feature("jpeg", (-1,)), pictures)}}
    root = tmp_path_factory.mktemp("videos") / "data"
    return make_dataset(root, per_split={"train": 5, "test": 5}, classes=2, columns_of=columns_of)


def trained(config: dict, folder, devices: int) -> tuple[list[dict], dict[str, np.ndarray], dict[str, float]]:
    """(lines of the log, weights and statistics, final scores) of the command over so many devices."""
    workdir = folder / f"on{devices}"
    file = write_config(folder / "config.py", config)
    done = run_main(
        "mtjax.train", f"--config={file}", f"--workdir={workdir}", f"--allow_code={__name__}", devices=devices
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert ("of padding" in done.stdout) == (devices == 8)
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line]
    return lines, weights_of(str(workdir)), json.loads((workdir / "results.json").read_text())["scores"]


def assert_the_same(config: dict, folder) -> None:
    (lines, weights, scores), (wanted, expected, before) = (trained(config, folder, n) for n in (8, 1))
    assert len(lines) == len(wanted) == 2
    for line, want in zip(lines, wanted, strict=True):
        assert line["batch_crc"] == want["batch_crc"]
        for name in ("train/loss", "train/grad_norm", "train/top1"):
            assert line[name] == pytest.approx(want[name], rel=1e-4), name
    for name, value in expected.items():
        np.testing.assert_allclose(weights[name], value, atol=2e-5, err_msg=name)
    assert scores == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("cache", ["none", "device"])
def test_six_clips_a_step_train_alike_on_one_device_and_on_eight(tracks, tmp_path, cache):
    """With dropout and augmentation on, and SGD: Adam's first steps turn rounding into signs."""
    train = {"batch": 6} | TWO_STEPS
    sgd = {"name": "sgd", "lr": 1e-2, "momentum": 0.9}
    config = tiny_config(tracks, train=train, model__dropout=0.1, data__augment={"noise": 0.01}, data__cache=cache)
    assert_the_same(config | {"optimizer": sgd}, tmp_path)


@pytest.mark.slow
def test_all_clips_at_once_are_as_good_a_batch(tracks, tmp_path):
    """L-BFGS with train.batch=0: 20 training clips on 8 devices."""
    config = tiny_config(tracks, train={"batch": 0} | TWO_STEPS) | {"optimizer": {"name": "lbfgs"}}
    assert_the_same(config, tmp_path)


def test_statistics_of_batch_norm_are_those_of_the_clips_alone(videos, tmp_path):
    """Four videos of two clips on eight devices."""
    data = {"name": "rgb.Rgb", "frames": 4, "size": 16, "resize": (18, 20), "clips": 2, "views": 2}
    sgd = {"name": "sgd", "lr": 1e-2, "momentum": 0.9}
    model, task = {"name": f"{__name__}.Tiny"}, {"name": "multi_clip.MultiClip"}
    train = {"batch": 4} | TWO_STEPS
    assert_the_same(config_of(videos, data=data, model=model, task=task, optimizer=sgd, train=train), tmp_path)


def test_rows_that_are_no_example_have_no_part_in_batch_norm():
    rng = np.random.default_rng(0)
    x, of_y = (jnp.asarray(rng.normal(2.0, 3.0, (5, 4, 3)), jnp.float32) for _ in range(2))
    valid = jnp.array([True, False, True, True, False])
    of_y = jnp.where(valid[:, None, None], of_y, 0.0)  # what is no example has no loss

    def normalised(x, valid=None):
        def call(x):
            norm = BatchNorm(3)
            return norm(x, train=True, valid=valid), (norm.mean[...], norm.var[...])

        y, pull, statistics = jax.vjp(call, x, has_aux=True)
        return y, pull, *statistics

    y, pull, mean, var = normalised(x, valid)
    expected, pull_too, mean_too, var_too = normalised(x[valid])
    np.testing.assert_allclose(y[valid], expected, atol=1e-5)
    np.testing.assert_allclose(mean, mean_too, atol=1e-6)
    np.testing.assert_allclose(var, var_too, atol=1e-5)
    (of_x,), (of_x_too,) = pull(of_y), pull_too(of_y[valid])
    np.testing.assert_allclose(of_x[valid], of_x_too, atol=1e-5)
    assert not of_x[~valid].any()
    _, _, mean, var = normalised(x, jnp.zeros(5, bool))
    np.testing.assert_array_equal((mean, var), (np.zeros(3), np.ones(3)))


def test_micro_batches_have_to_divide(tracks):
    mesh = sharding.make_mesh()
    assert [sharding.padded_batch(n, mesh) for n in (1, 8, 202)] == [8, 8, 208]
    with pytest.raises(ConfigError, match=r"config.train.batch=12 does not divide over 8 .*accumulate=2"):
        Experiment(tiny_config(tracks, train={"batch": 12, "accumulate": 2}))
