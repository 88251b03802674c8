"""Several clips of a video: MF-1 to MF-3 and MF-8, order and neighbours, what is asked of the data (motionfit.md §3, §7)."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mtjax.tasks import losses
from mtjax.tasks.classify import Classifier, Classify
from mtjax.tasks.multi_clip import MultiClip, OrderHead, orders


class Given(nnx.Module):
    """A backbone whose embeddings are in the batch."""

    width = 4

    def __call__(self, batch, *, train, rngs=None):
        return batch["embedding"]


class Same(nnx.Module):
    """A head that gives its first c inputs as logits."""

    def __init__(self, classes: int):
        self.classes = classes

    def __call__(self, x):
        return x[..., : self.classes]


def batch_of(logits, label, **more) -> dict:
    logits = np.asarray(logits, np.float32)
    padded = np.zeros((*logits.shape[:-1], 4), np.float32)
    padded[..., : logits.shape[-1]] = logits
    b = len(logits)
    batch = {"embedding": padded, "label": np.array(label, np.int32), "valid": np.ones(b, bool)}
    return {k: jnp.asarray(v) for k, v in (batch | {"observed": np.ones(b, bool)} | more).items()}


def with_given_logits(task, classes: int):
    model = task.assemble(Given(), rngs=nnx.Rngs(0))
    model.head = Same(classes)
    return model


MF1 = [[[2, 0], [0, 0]], [[0, 1], [3, 0]]]


def test_mf1_the_loss_is_the_mean_of_the_clips_own_losses():
    task = Classify(num_classes=2)
    loss, scalars = task.loss(with_given_logits(task, 2), batch_of(MF1, [0, 1]), rngs=nnx.Rngs(0))
    assert float(loss) == pytest.approx(1.045481, abs=1e-6)
    assert float(scalars["top1"]) == pytest.approx(75.0)  # of equal logits the first class wins, which is right here
    each = losses.cross_entropy(jnp.asarray(MF1, jnp.float32), jnp.array([[0, 0], [1, 1]], jnp.int32))
    np.testing.assert_allclose(each, [[0.126928, 0.693147], [0.313262, 3.048587]], atol=1e-6)
    own = batch_of(MF1, [[0, -1], [1, 0]])  # each clip its own label, one without
    loss, _ = task.loss(with_given_logits(task, 2), own, rngs=nnx.Rngs(0))
    assert float(loss) == pytest.approx((0.126928 + 0.313262 + 0.048587) / 3, abs=1e-6)
    hidden = batch_of(MF1, [0, 1], observed=np.array([True, False]))
    loss, _ = task.loss(with_given_logits(task, 2), hidden, rngs=nnx.Rngs(0))
    assert float(loss) == pytest.approx((0.126928 + 0.693147) / 2, abs=1e-6)


def test_mf2_orders_are_numbered_as_permutations_are():
    assert orders(3).tolist().index([2, 0, 1]) == 4 and len(orders(3)) == 6


def test_mf3_the_share_of_the_labels_weighs_both_losses():
    data = SimpleNamespace(
        class_names=("a", "b"), clips=2, ordered=True, pseudo="", root="d", training_labels=np.zeros(1, np.int32),
        rows=lambda split: np.zeros(1, np.int64),
    )  # fmt: skip
    task = MultiClip(data, label_share=0.5)
    model = with_given_logits(task, 2)
    model.order_head.order.kernel[...] = jnp.zeros_like(model.order_head.order.kernel[...])
    batch = batch_of(MF1, [0, 1], in_order=np.ones(2, bool))
    loss, scalars = task.loss(model, batch, rngs=nnx.Rngs(0))
    assert float(scalars["order"]) == pytest.approx(np.log(2), abs=1e-6)
    assert float(loss) == pytest.approx(0.5 * 1.045481 + 0.5 * np.log(2), abs=1e-6)
    # Three clips, as in the spec: ln 6.
    head = OrderHead(4, 3, rngs=nnx.Rngs(0))
    head.order.kernel[...] = jnp.zeros_like(head.order.kernel[...])
    logits = head(jnp.ones((1, 3, 4)), train=False)
    assert logits.shape == (1, 6) and head.pair.kernel.shape == (8, 512) and head.order.kernel.shape == (1536, 6)
    assert float(losses.cross_entropy(logits, jnp.array([3], jnp.int32))[0]) == pytest.approx(1.791759, abs=1e-6)
    whole = MultiClip(data, label_share=1.0)
    model = with_given_logits(whole, 2)
    assert model.order_head is None
    loss, scalars = whole.loss(model, batch, rngs=nnx.Rngs(0))
    assert float(loss) == pytest.approx(1.045481, abs=1e-6) and "order" not in scalars
    short, scalars = task.loss(with_given_logits(task, 2), batch | {"in_order": jnp.zeros(2, bool)}, rngs=nnx.Rngs(0))
    assert float(scalars["order"]) == 0.0 and float(short) == pytest.approx(0.5 * 1.045481, abs=1e-6)


def test_the_order_can_be_learnt_from_features_that_tell_it():
    """Features that say when they are: the head must tell the order it is given, so the shuffling and its class agree."""
    task = MultiClip(num_classes=2, clips=3, label_share=0.0)
    model = task.assemble(Given(), rngs=nnx.Rngs(1))
    optimizer = optax.sgd(0.3)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    state = optimizer.init(params)
    embedding = np.tile(np.eye(4, dtype=np.float32)[None, :3], (32, 1, 1))
    batch = batch_of(embedding, [0] * 32, in_order=np.ones(32, bool))

    @nnx.jit
    def step(params, state, key):
        def loss_of(params):
            return task.loss(nnx.merge(graph, params, rest), batch, rngs=nnx.Rngs(dropout=key))

        (_, scalars), gradient = nnx.value_and_grad(loss_of, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, scalars

    for i in range(60):
        params, state, scalars = step(params, state, jax.random.key(i))
    assert float(scalars["order_top1"]) > 90


def test_neighbours_have_heads_of_their_own():
    task = MultiClip(num_classes=2, clips=2, neighbours=True)
    model = with_given_logits(task, 2)
    assert len(model.neighbour_heads) == 2
    model.neighbour_heads = nnx.List([Same(2), Same(2)])
    labels = {
        "label_before": np.array([[-1, 0], [0, 1]], np.int32),
        "label_after": np.array([[0, -1], [1, -1]], np.int32),
    }
    loss, scalars = task.loss(model, batch_of(MF1, [0, 1], **labels), rngs=nnx.Rngs(0))
    before = (0.693147 + 1.313262 + 3.048587) / 3
    after = (0.126928 + 0.313262) / 2
    assert float(loss) == pytest.approx((1.045481 + before + after) / 3, abs=1e-5)
    assert float(scalars["labels"]) == float(loss)


def test_mf8_a_video_is_scored_by_its_mean_logits_and_also_by_its_mean_probabilities():
    task = Classify(num_classes=3)
    batch = batch_of([[[10, 0, 9], [0, 2, 1.9]]], [2])
    said = task.predict(with_given_logits(task, 3), batch)
    assert said["logits"].shape == (1, 3) and int(said["probs"].argmax()) == 2
    assert int(said["probs_mean"].argmax()) == 0
    assert said["clip_embedding"].shape == (1, 2, 4)
    np.testing.assert_allclose(said["embedding"], batch["embedding"].mean(1))
    np.testing.assert_allclose(said["loss"], losses.cross_entropy(said["logits"], jnp.array([2], jnp.int32)))
    nothing = task.predict(with_given_logits(task, 3), batch | {"observed": jnp.zeros(1, bool)})
    np.testing.assert_allclose(nothing["probs_mean"], 1 / 3, atol=1e-6)
    np.testing.assert_allclose(nothing["probs"], 1 / 3, atol=1e-6)


def test_padding_views_have_no_say():
    task = Classify(num_classes=3)
    batch = batch_of([[[1, 0, 0], [0, 9, 0]], [[1, 0, 0], [0, 9, 0]]], [0, 1])
    times = jnp.array([[0.5, -1.0], [0.5, 1.5]])
    said = task.predict(with_given_logits(task, 3), batch | {"centre_s": times})
    np.testing.assert_allclose(said["logits"], [[1, 0, 0], [0.5, 4.5, 0]])
    np.testing.assert_allclose(said["embedding"], [[1, 0, 0, 0], [0.5, 4.5, 0, 0]])
    np.testing.assert_allclose(said["probs_mean"].sum(-1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(said["centre_s"], times)


def test_what_the_data_cannot_feed_is_named():
    def data(**has):
        labels = {"training_labels": np.zeros(1, np.int32), "rows": lambda split: np.zeros(1, np.int64)}
        return SimpleNamespace(class_names=("a", "b"), root="d", **labels | has)

    for keywords, has, said in (
        ({"clips": 3}, {"clips": 2}, r"task.clips=3, but config.data.clips=2"),
        ({"label_share": 0.5}, {"clips": 3, "ordered": False}, r"data.clips=2 or more and data.ordered"),
        ({"label_share": 0.5}, {}, r"data.clips=2 or more and data.ordered"),
        ({"neighbours": True}, {"clips": 3, "pseudo": ""}, r"task.neighbours: needs data.pseudo"),
    ):
        with pytest.raises(ValueError, match=said):
            MultiClip(data(**has), **keywords)
    assert MultiClip(data(clips=3)).outputs == {"num_classes": 2, "clips": 3}
    assert isinstance(MultiClip(data(clips=3)).assemble(Given(), rngs=nnx.Rngs(0)), Classifier)
