"""Students of motion teachers: the loss and the rules by hand (MG-6), soft labels of a column and of a frozen teacher."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import config_of, make_dataset, train_here
from flax import nnx

from mtjax import predict, records
from mtjax.data.columns import Column
from mtjax.models.frozen import Frozen
from mtjax.run import initial_weights
from mtjax.run.evaluation import predict_rows
from mtjax.run.experiment import Experiment, open_run
from mtjax.tasks.distill import Distill
from mtjax.types import Teacher

pytestmark = pytest.mark.usefixtures("one_device")


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


def student_batch(**changes) -> dict[str, jax.Array]:
    batch = {
        "features": np.float32(SUP), "teacher": np.float32(PI), "taught": np.ones(5, bool), "label": np.int32(LABELS),
        "valid": np.ones(5, bool), "observed": np.ones(5, bool), "clip": np.arange(5, dtype=np.int32),
    }  # fmt: skip
    return {name: jnp.asarray(values) for name, values in (batch | changes).items()}


def loss_of(batch=None, **options) -> tuple[float, dict[str, float]]:
    task, module = student(**options)
    loss, scalars = task.loss(module, batch or student_batch(), rngs=nnx.Rngs(0))
    return float(loss), {name: float(value) for name, value in scalars.items()}


HARD = ce(SUP, np.eye(3)[LABELS])[LABELS >= 0].mean()


def test_mg6_the_loss_is_alpha_hard_plus_beta_soft():
    one = np.arange(5) == 0  # the worked example: soft 0.869846 on the labels' own logits, hard 0.169846
    loss, parts = loss_of(student_batch(valid=one), heads=1)
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
    assert loss_of(student_batch(taught=taught))[1]["soft"] == pytest.approx(ce(WEAK, PI)[taught].mean(), abs=1e-6)
    assert loss_of(student_batch(taught=taught))[1]["hard"] == pytest.approx(HARD, abs=1e-6)
    seen = np.array([True, True, True, False, True])
    for name in ("observed", "valid"):
        parts = loss_of(student_batch(**{name: seen}))[1]
        assert parts["soft"] == pytest.approx(ce(WEAK, PI)[seen].mean(), abs=1e-6)
        both = seen & (LABELS >= 0)
        assert parts["hard"] == pytest.approx(ce(SUP, np.eye(3)[LABELS])[both].mean(), abs=1e-6)
    nothing = loss_of(student_batch(taught=np.zeros(5, bool), label=np.full(5, -1, np.int32)))
    assert nothing[0] == 0.0 and all(np.isfinite(v) for v in nothing[1].values())


def test_the_four_rules_by_hand():
    p, q = softmax(SUP), softmax(WEAK)
    geometric = np.sqrt(p * q) / np.sqrt(p * q).sum(1, keepdims=True)
    expected = {"mean": (p + q) / 2, "geometric": geometric, "sup": p, "weak": q}
    for rule in expected:
        task, module = student(rule=rule)
        said = task.predict(module, student_batch())
        for name, probs in expected.items():
            np.testing.assert_allclose(said[f"probs_{name}"], probs, atol=1e-6)
        np.testing.assert_allclose(said["probs"], expected[rule], atol=1e-6)
        np.testing.assert_allclose(
            said["loss"], np.where(LABELS < 0, 0, ce(np.log(expected[rule]), np.eye(3)[LABELS])), atol=1e-5
        )
        np.testing.assert_allclose(said["embedding"], SUP, atol=1e-6)
    task, module = student(heads=1)
    said = task.predict(module, student_batch(observed=np.array([True, True, True, True, False])))
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


# A teacher of body motion and a student of embeddings.

POSE = {"name": "pose.Pose", "column": "pose", "max_rows": 8, "cache": "device"}
MIL = {"name": "mil.MotionMIL", "width": 8, "layers": 1, "heads": 2, "feed_forward": 8, "attention": 4}
UNSEEN = "train-005"


def poses_of(ids: list[str]) -> dict[str, np.ndarray]:
    """A body whose left wrist moves in a direction a class; in one clip no joint is sure."""
    rng, found = np.random.default_rng(0), {}
    for i in ids:
        pose = np.zeros((10, 17, 3), np.float32)
        pose[..., :2] = 40 * np.random.default_rng(1).random((17, 2)) + rng.normal(0, 0.1, (10, 17, 2))
        pose[:, 5, :2], pose[:, 6, :2] = (30, 20), (10, 20)
        angle = 2 * np.pi * (int(i[-3:]) % 3) / 3
        pose[:, 9, :2] += 3 * np.arange(10)[:, None] * [np.cos(angle), np.sin(angle)]
        pose[..., 2] = 0.0 if i == UNSEEN else 0.9
        found[i] = pose
    return found


@pytest.fixture(scope="module")
def taught(tmp_path_factory, one_device):
    """(dataset, workdir of a motion teacher) with the teacher's soft labels as column "mil"."""
    folder = tmp_path_factory.mktemp("taught")
    counts = {"train": 16, "test": 8}
    ids = [f"{split}-{i:03}" for split, count in counts.items() for i in range(count)]
    rng = np.random.default_rng(2)
    vectors = {i: rng.normal(size=4).astype(np.float32) for i in ids}
    columns_of = {
        "pose": {"pose": (records.Feature("float32", (10, 17, 3)), poses_of(ids))},
        "x.embedding": {"embedding": (records.Feature("float32", (4,)), vectors)},
    }
    root = make_dataset(folder / "data", per_split=counts, columns_of=columns_of)
    few = POSE | {"k_shot": 4}  # it says something of every clip all the same
    config = config_of(root, data=few, model=MIL, task={"name": "classify.Classify"}, train={"epochs": 3.0})
    train_here(config, folder / "teacher")
    arguments = ["--column=mil", "--fields=probs,embedding", "--splits=train,test"]
    assert predict.main([str(folder / "teacher"), *arguments]) == 0
    return root, folder / "teacher"


FEW = {"k_shot": 2, "unlabelled": ("train",)}


def student_of(root, teacher="", **task) -> dict:
    """Of embeddings: with the teacher's column, or with its workdir and the poses that it looks at."""
    watched = {k: v for k, v in POSE.items() if k != "cache"}
    data = (
        FEW
        | {"cache": "device"}
        | (
            {
                "name": "joined.Joined",
                "student": {"name": "features.Features", "column": "x.embedding"},
                "watched": watched,
            }
            if teacher
            else {"name": "features.Features", "column": "x.embedding", "teacher": "mil"}
        )
    )
    task = {"name": "distill.Distill", "heads": 2} | ({"teacher": str(teacher)} if teacher else {}) | task
    model = {"name": "frozen.Frozen", "width": 4}
    return config_of(root, data=data, model=model, task=task, train={"epochs": 4.0})


def test_a_clip_that_shows_nothing_gets_no_soft_label(taught):
    column = Column(taught[0], "mil")
    assert len(column) == 23 and UNSEEN not in column
    failures = (column.directory / "failures.jsonl").read_text()
    assert failures.count("\n") == 1 and UNSEEN in failures and "the clip shows nothing" in failures
    rows = column.read(list(range(23)))
    assert all(abs(r["probs"].sum() - 1) < 1e-5 and r["embedding"].shape == (8,) for r in rows)
    assert column.spec.parameters["class_names"] == ["class 000", "class 001", "class 002"]


def loss_and_gradients(config: dict):
    experiment = Experiment(config)
    state = experiment.program.init(initial_weights.initial_weights(experiment))
    read = experiment.data.read(experiment.data.rows("train"), train=True)
    batch = experiment.data.prepare(jax.tree.map(jnp.asarray, read), train=False)
    loss, scalars, _, gradients = jax.jit(experiment.program._gradients)(state, batch, jax.random.key(0))
    return experiment, state, batch, loss, scalars, gradients


def test_a_frozen_teacher_teaches_what_its_column_says(taught):
    """The same initial student (`seed`), the same clips, labels and soft labels: the same loss and gradients."""
    root, workdir = taught
    _, state_c, batch_c, loss_c, scalars_c, gradients_c = loss_and_gradients(student_of(root))
    experiment, state, batch, _, _, _ = loss_and_gradients(student_of(root, workdir))
    state = state | {"params": state_c["params"]}
    loss, scalars, _, gradients = jax.jit(experiment.program._gradients)(state, batch, jax.random.key(0))
    assert not any("teacher" in name for name in gradients) and set(gradients) == set(gradients_c)
    assert float(loss) == pytest.approx(float(loss_c), abs=1e-5) and float(scalars["soft"]) > 0
    for name in scalars:
        assert float(scalars[name]) == pytest.approx(float(scalars_c[name]), abs=1e-4), name
    for name, value in gradients.items():
        np.testing.assert_allclose(value, gradients_c[name], atol=1e-5, err_msg=name)
    names = [experiment.data.catalog.clips[c].id for c in batch["clip"]]
    assert [n for n, t in zip(names, batch["taught"], strict=True) if not t] == [UNSEEN]
    np.testing.assert_array_equal(batch["taught"], batch_c["taught"])
    assert (np.asarray(batch["label"]) >= 0).sum() == 6 and batch["observed"].all()


def test_training_leaves_the_frozen_teacher_as_it_was(taught, tmp_path):
    root, workdir = taught
    config = student_of(root, workdir, beta=2.0)
    config["optimizer"] = {"lr": 0.05, "weight_decay": 0.5}  # decay would show on whatever the optimiser sees
    train_here(config, tmp_path / "student")
    facts = json.loads((tmp_path / "student" / "results.json").read_text())
    assert facts["labelled"] == 6 and facts["clips"] == {"test": 8, "train": 16}
    _, of_teacher, _ = open_run(workdir, scored=True)
    experiment, state, _ = open_run(tmp_path / "student", scored=True)
    assert set(state["params"]) == {f"{head}/{leaf}" for head in ("head", "weak_head") for leaf in ("kernel", "bias")}
    for name, value in of_teacher["params"].items():
        np.testing.assert_array_equal(state["rest"][f"teacher/{name}"], value, err_msg=name)
    rows = predict_rows(experiment, state, experiment.data.rows("test"))
    assert rows["probs_weak"].shape == (8, 3) and len(rows["clip"]) == 8
    start = experiment.program.init(initial_weights.initial_weights(experiment))
    assert np.abs(np.asarray(state["params"]["weak_head/kernel"]) - start["params"]["weak_head/kernel"]).max() > 0.01


def test_a_student_has_one_teacher_of_its_own_classes(taught, tmp_path):
    root, workdir = taught
    both = student_of(root, workdir)
    both["data"] = student_of(root)["data"]
    neither = student_of(root)
    neither["data"] = neither["data"] | {"teacher": ""}
    for config in (both, neither):
        with pytest.raises(ValueError, match="needs either data.teacher .* or task.teacher"):
            Experiment(config)
    twice = student_of(root, workdir)
    twice["data"] = twice["data"] | {"teacher": "mil"}
    with pytest.raises(ValueError, match="a column of soft labels and data.watched exclude each other"):
        Experiment(twice)
    fewer = student_of(root, workdir)
    fewer["data"] = fewer["data"] | {"classes": ("class 000", "class 001")}
    with pytest.raises(
        ValueError, match=r"config.task.teacher was trained on \('class 000', 'class 001', 'class 002'\)"
    ):
        Experiment(fewer)
    lost = student_of(root, tmp_path)
    with pytest.raises(ValueError, match="no config.json; is this the --workdir"):
        Experiment(lost)
    misplaced = student_of(root, workdir)
    misplaced["data"] = misplaced["data"] | {"student": {"name": "features.Features", "train": "test"}}
    with pytest.raises(ValueError, match=r"config.data.student: \['train'\] belong into config.data itself"):
        Experiment(misplaced)


# Features.


def frozen(width: int) -> nnx.Module:
    return Frozen(width=width, rngs=nnx.Rngs(0))


def says(module, batch) -> dict[str, jax.Array]:
    probs = jnp.full((len(batch["shown"]), 2), 0.5)
    return {"probs": probs, "embedding": batch["shown"], "observed": batch["observed"]}


GUIDE = Teacher(lambda key: frozen(2), {}, says, ("walk", "run"))  # its embedding is in the batch


def test_mf9_features_are_matched_by_the_mean_over_batch_and_features():
    seen, shown = np.float32([[1, 2], [0, 0]]), np.float32([[0, 2], [1, 1]])
    batch = {k: v[:2] for k, v in student_batch().items()} | {
        "features": jnp.asarray(seen),
        "shown": jnp.asarray(shown),
    }

    def loss_of(batch=batch, **options):
        task = Distill(num_classes=3, teacher=GUIDE, beta=0.0, match=50.0, **options)
        loss, scalars = task.loss(task.assemble(frozen(2), rngs=nnx.Rngs(0)), batch, rngs=nnx.Rngs(0))
        return float(loss), scalars

    loss, scalars = loss_of(alpha=0.0)
    assert loss == pytest.approx(37.5, abs=1e-4) and "soft" not in scalars  # the teacher's classes do not matter
    assert loss_of(batch | {"taught": jnp.array([True, False])}, alpha=0.0)[0] == pytest.approx(25.0, abs=1e-4)
    both, scalars = loss_of(alpha=1.0)
    assert both == pytest.approx(float(scalars["hard"]) + 37.5, abs=1e-4)
    with pytest.raises(ValueError, match=r"task.match: the student's embedding is \(2, 2\), the teacher's \(2, 1\)"):
        loss_of(batch | {"shown": jnp.asarray(shown[:, :1])})
