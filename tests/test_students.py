"""Students of motion teachers: soft labels, frozen teachers, probes by L-BFGS, warm starts, classes by their names
(motion_guidance.md §3 to §6, MG-6, MG-7)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtjax.models.frozen import Frozen
from mtjax.tasks.distill import Distill


def softmax(z) -> np.ndarray:
    e = np.exp(np.asarray(z, np.float64))
    return e / e.sum(-1, keepdims=True)


def ce(logits, target) -> np.ndarray:
    return -(np.asarray(target) * np.log(softmax(logits))).sum(-1)


# The loss and the rules, by hand.

SUP = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [0.0, 1.0, 3.0], [1.0, 1.0, 1.0], [0.0, 2.0, 0.0]])
TURN = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.5], [1.0, 0.0, 0.0]])  # logits of the weak head: the others, moved
PI = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]])
LABELS = np.array([0, -1, 1, 2, 1])
WEAK = SUP @ TURN


def student(**options) -> tuple[Distill, nnx.Module]:
    """Whose heads give SUP and WEAK."""
    task = Distill(num_classes=3, **{"heads": 2} | options)
    module = task.assemble(Frozen(width=3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    for head, kernel in ((module.head, np.eye(3)), (module.weak_head, TURN)):
        if head is not None:
            head.kernel.set_value(jnp.asarray(kernel, jnp.float32))
    return task, module


def lesson(**changes) -> dict[str, jax.Array]:
    batch = {
        "features": np.float32(SUP), "teacher": np.float32(PI), "taught": np.ones(5, bool), "label": np.int32(LABELS),
        "valid": np.ones(5, bool), "observed": np.ones(5, bool), "clip": np.arange(5, dtype=np.int32),
    }  # fmt: skip
    return {name: jnp.asarray(values) for name, values in (batch | changes).items()}


def loss_of(batch=None, **options) -> tuple[float, dict[str, float]]:
    task, module = student(**options)
    loss, scalars = task.loss(module, batch or lesson(), rngs=nnx.Rngs(0))
    return float(loss), {name: float(value) for name, value in scalars.items()}


HARD = ce(SUP, np.eye(3)[LABELS])[LABELS >= 0].mean()


def test_mg6_the_loss_is_alpha_hard_plus_beta_soft():
    one = np.arange(5) == 0  # the worked example: soft 0.869846 on the labels' own logits, hard 0.169846
    loss, parts = loss_of(lesson(valid=one), heads=1)
    assert parts["soft"] == pytest.approx(0.869846, abs=1e-6) and parts["hard"] == pytest.approx(0.169846, abs=1e-6)
    assert loss == pytest.approx(1.039692, abs=1e-5)
    loss, parts = loss_of(alpha=0.3, beta=2.0)
    assert parts["hard"] == pytest.approx(HARD, abs=1e-6) and parts["soft"] == pytest.approx(
        ce(WEAK, PI).mean(), abs=1e-6
    )
    assert loss == pytest.approx(0.3 * HARD + 2.0 * ce(WEAK, PI).mean(), abs=1e-5)
    assert parts["top1"] == pytest.approx(100 * 2 / 4)  # of the labelled clips 0, 2, 3, 4; ties to the lower class
    assert parts["agreement"] == pytest.approx(100 * np.mean(WEAK.argmax(1) == PI.argmax(1)))


def test_temperature_softens_both_sides_and_keeps_the_size():
    softened = PI ** (1 / 3) / (PI ** (1 / 3)).sum(1, keepdims=True)
    expected = 9.0 * ce(WEAK / 3, softened).mean()
    assert loss_of(temperature=3.0)[1]["soft"] == pytest.approx(expected, abs=1e-5)
    assert loss_of(temperature=3.0)[1]["hard"] == pytest.approx(HARD, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_kl_is_the_soft_cross_entropy_less_the_teachers_entropy(temperature):
    soft = PI ** (1 / temperature) / (PI ** (1 / temperature)).sum(1, keepdims=True)
    entropy = -(temperature**2) * (soft * np.log(soft)).sum(1).mean()
    difference = [loss_of(divergence=d, temperature=temperature)[0] for d in ("cross_entropy", "kl")]
    assert difference[0] - difference[1] == pytest.approx(entropy, abs=1e-5)


def test_who_is_not_taught_not_observed_or_padding_does_not_count():
    taught = np.array([True, False, True, True, False])
    assert loss_of(lesson(taught=taught))[1]["soft"] == pytest.approx(ce(WEAK, PI)[taught].mean(), abs=1e-6)
    assert loss_of(lesson(taught=taught))[1]["hard"] == pytest.approx(HARD, abs=1e-6)
    seen = np.array([True, True, True, False, True])
    for name in ("observed", "valid"):
        parts = loss_of(lesson(**{name: seen}))[1]
        assert parts["soft"] == pytest.approx(ce(WEAK, PI)[seen].mean(), abs=1e-6)
        both = seen & (LABELS >= 0)
        assert parts["hard"] == pytest.approx(ce(SUP, np.eye(3)[LABELS])[both].mean(), abs=1e-6)
    nothing = loss_of(lesson(taught=np.zeros(5, bool), label=np.full(5, -1, np.int32)))
    assert nothing[0] == 0.0 and all(np.isfinite(v) for v in nothing[1].values())


def test_the_four_rules_by_hand():
    p, q = softmax(SUP), softmax(WEAK)
    geometric = np.sqrt(p * q) / np.sqrt(p * q).sum(1, keepdims=True)
    expected = {"mean": (p + q) / 2, "geometric": geometric, "sup": p, "weak": q}
    for rule in expected:
        task, module = student(rule=rule)
        said = task.predict(module, lesson())
        for name, probs in expected.items():
            np.testing.assert_allclose(said[f"probs_{name}"], probs, atol=1e-6)
        np.testing.assert_allclose(said["probs"], expected[rule], atol=1e-6)
        np.testing.assert_allclose(
            said["loss"], np.where(LABELS < 0, 0, ce(np.log(expected[rule]), np.eye(3)[LABELS])), atol=1e-5
        )
        np.testing.assert_allclose(said["embedding"], SUP, atol=1e-6)
    task, module = student(heads=1)
    said = task.predict(module, lesson(observed=np.array([True, True, True, True, False])))
    assert set(said) == {"logits", "probs", "embedding", "loss", "observed"}
    np.testing.assert_allclose(said["probs"], np.where(np.arange(5)[:, None] < 4, p, 1 / 3), atol=1e-6)


def test_wrong_settings_of_a_student_are_named():
    for options, message in (
        ({"rule": "median"}, "config.task.rule='median'"),
        ({"heads": 3}, "config.task.heads=3"),
        ({"divergence": "js"}, "config.task.divergence='js'"),
    ):
        with pytest.raises(ValueError, match=message):
            Distill(num_classes=3, **options)
