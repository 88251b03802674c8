"""Runs with converted weights: zero-shot without training, columns of augmented views, warm starts."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SHARED, config_of, image_bytes, make_dataset, train_here
from flax import nnx
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from configs import guidance_ucf101
from mtjax import convert, lookup, predict, records
from mtjax.data import openai_clip_tokens
from mtjax.data.columns import Column
from mtjax.evaluators.top1 import top_k
from mtjax.modalities.features import Features
from mtjax.models import openai_clip, xclip
from mtjax.run import initial_weights
from mtjax.run.experiment import Experiment
from mtjax.run.metrics_log import read_metrics
from mtjax.tasks.zero_shot import PROMPTS, ZeroShot, spoken

pytestmark = pytest.mark.usefixtures("one_device")

WORDS = [
    "<unk>",
    *["a", "video", "of", "person", "is", "doing", "footage", "class", "000", "001", "002", "apply", "eye", "makeup"],
]
SIDE = {"frames": 2, "image": 16, "patch": 8, "width": 16, "layers": 1, "heads": 2, "output": 8, "mit_heads": 2}
WHOLE = SIDE | {
    "vocabulary": len(WORDS) + 2, "context": 77, "text_width": 16, "text_layers": 1, "text_heads": 2, "prompt_layers": 1,
    "prompt_heads": 2,
}  # fmt: skip
AUGMENT = {"flip": 0.5, "jitter": 0.8, "grayscale": 0.2}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A Hugging Face folder whose tokenizer knows few words."""
    vocabulary = {word: i for i, word in enumerate([*WORDS, openai_clip_tokens.START, openai_clip_tokens.END])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(word, vocabulary[word]) for word in (openai_clip_tokens.START, openai_clip_tokens.END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{openai_clip_tokens.START} $A {openai_clip_tokens.END}", special_tokens=special
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A folder as `mtjax.convert` writes it."""
    state = nnx.to_flat_state(nnx.state(xclip.XCLIP(**WHOLE, rngs=nnx.Rngs(7))))
    folder = tmp_path_factory.mktemp("converted")
    params = {"/".join(map(str, path)): np.asarray(variable.get_value()) for path, variable in state}
    convert.save("xclip", WHOLE, params, folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    counts = {"train": 8, "test": 6}
    rng = np.random.default_rng(0)
    images = {
        f"{split}-{i:03}": [image_bytes(p, "JPEG") for p in rng.integers(0, 256, (5, 24, 32, 3), np.uint8)]
        for split, count in counts.items()
        for i in range(count)
    }
    fields = {"frames": {"frames": (records.Feature("jpeg"), images)}}
    return make_dataset(tmp_path_factory.mktemp("clips") / "data", per_split=counts, columns_of=fields)


def run_of(root, *, model: dict, task: dict, **train) -> dict:
    data = {"name": "frames.Frames", "frames": 2, "size": 16, "short_side": 20, "augment": AUGMENT}
    return config_of(root, data=data, model=model, task=task, train={"batch": 4, "epochs": 1.0} | train)


@pytest.fixture(scope="module")
def zero_shot(root, converted, tokens, one_device, tmp_path_factory):
    """(config, workdir, scores) of a run that only scores the converted weights, as `configs/guidance_ucf101.py` says."""
    as_configured = guidance_ucf101.get_config("xclip_zs").train.to_dict()
    config = run_of(
        root,
        model={"name": "xclip.XCLIP"} | WHOLE,
        task={"name": "zero_shot.ZeroShot", "tokenizer": tokens},
        **as_configured | {"init": str(converted), "batch": 4, "watch": ("test",), "select": "test/top1"},
    )
    workdir = tmp_path_factory.mktemp("zero") / "run"
    return config, workdir, train_here(config, workdir)


# Texts.


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("HandStandPushups", "hand stand pushups"),
        ("YoYo", "yo yo"),
        ("TaiChi", "tai chi"),
        ("brush_hair", "brush hair"),
        ("Basketball", "basketball"),
        ("walking with dog", "walking with dog"),
        ("TVOn", "tv on"),
        ("Front-Crawl", "front crawl"),
        ("class 007", "class 007"),
    ],
)
def test_class_names_are_spoken_as_words(name, words):
    assert spoken(name) == words


def named(*names: str) -> SimpleNamespace:
    return SimpleNamespace(class_names=names)


def test_prototypes_are_the_normalised_mean_of_unit_text_embeddings(converted, tokens):
    task = ZeroShot(named("ApplyEyeMakeup", "class_001"), tokenizer=tokens)
    module = task.assemble(convert.load("xclip", converted), rngs=nnx.Rngs(0))
    task.settle(module)
    words = openai_clip_tokens.load(tokens)
    for row, name in enumerate(("apply eye makeup", "class 001")):
        texts = [prompt.replace("{}", name) for prompt in PROMPTS]
        each = np.asarray(module.backbone.embed_text(jnp.asarray(openai_clip_tokens.encode(words, texts))))
        mean = (each / np.linalg.norm(each, axis=1, keepdims=True)).mean(0)
        np.testing.assert_allclose(module.prototypes[...][row], mean / np.linalg.norm(mean), atol=1e-5)
    assert task.ids.shape == (5, 2, 77) and len(PROMPTS) == 5
    bare = ZeroShot(named("ApplyEyeMakeup"), tokenizer=tokens, prompts=("{}",))
    end = len(WORDS) + 1
    assert bare.ids[0, 0, :6].tolist() == [end - 1, *(WORDS.index(w) for w in ("apply", "eye", "makeup")), end, 0]


def judged(task: ZeroShot, folder, batch: dict) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(what the task predicts, cosines times the scale where each text gets the video's prompt)."""
    graph, state = nnx.split(task.assemble(convert.load("xclip", folder), rngs=nnx.Rngs(0)))

    @jax.jit
    def run(state, batch):
        module = nnx.merge(graph, state)
        task.settle(module)
        net, frames = module.backbone, batch["frames"]
        each = jnp.broadcast_to(module.prototypes[...], (len(frames), *module.prototypes.shape))
        prompted = net.prompts(each, net._video(frames)[1])
        cosine = jnp.einsum("bd,bcd->bc", openai_clip.unit(net.embed_video(frames)), openai_clip.unit(prompted))
        return task.predict(module, batch), jnp.exp(net.logit_scale[...]) * cosine

    return jax.device_get(run(state, batch))


def noise(count: int) -> dict[str, jax.Array]:
    frames = jax.random.normal(jax.random.key(0), (count, 2, 16, 16, 3))
    return {"frames": frames, "label": jnp.zeros(count, jnp.int32), "valid": jnp.ones(count, bool)}


def test_equal_prototypes_tie_and_the_lowest_class_wins(converted, tokens):
    task = ZeroShot(named("quux", "corge", "grault"), tokenizer=tokens)  # unknown words, all the same
    said, _ = judged(task, converted, noise(4))
    np.testing.assert_array_equal(said["probs"], np.full((4, 3), np.float32(1 / 3)))
    assert said["probs"].argmax(1).tolist() == [0] * 4
    assert [top_k(said["probs"], np.full(4, c), 1) for c in range(3)] == [100.0, 0.0, 0.0]


def test_prompts_of_the_video_are_asked_for_by_name(converted, tokens):
    options = {"tokenizer": tokens, "prompts": ("{}",)}
    names = named("ApplyEyeMakeup", "class_001")
    plain, _ = judged(ZeroShot(names, **options), converted, noise(2))
    prompted, expected = judged(ZeroShot(names, prompted=True, **options), converted, noise(2))
    np.testing.assert_allclose(prompted["logits"], expected, atol=1e-4)
    assert np.abs(prompted["logits"] - plain["logits"]).max() > 1e-3


def test_wrong_prompts_and_tokenizers_are_named(tokens, tmp_path):
    with pytest.raises(ValueError, match=r"config.task.prompts: \['a video'\] have no {}"):
        ZeroShot(named("a"), tokenizer=tokens, prompts=("a video", "{}"))
    with pytest.raises(ValueError, match="the dataset has no classes to name"):
        ZeroShot(named(), tokenizer=tokens)
    with pytest.raises(ValueError, match="Hugging Face folder with tokenizer.json"):
        ZeroShot(named("a"), tokenizer=str(tmp_path))


def test_the_real_vocabulary_reads_the_prompts_back():
    vocabulary = SHARED / "data" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
    if not vocabulary.is_file():
        pytest.skip("CLIP's vocabulary (../shared) is not here")
    task = ZeroShot(named("ApplyEyeMakeup", "YoYo"), tokenizer=str(vocabulary))
    words = openai_clip_tokens.load(vocabulary)
    for prompt, ids in zip(PROMPTS, task.ids, strict=True):
        back = [words.decode(row[: row.argmax()].tolist()).replace("</w>", " ").strip() for row in ids]
        assert back == [prompt.format(name) for name in ("apply eye makeup", "yo yo")]


# Without training.


def test_no_epochs_score_the_first_weights_and_save_step_0(zero_shot, root, converted, tokens):
    config, workdir, scores = zero_shot
    results = json.loads((workdir / "results.json").read_text())
    assert results["step"] == 0 and results["scores"] == scores and scores["test/n"] == 6
    assert (workdir / "checkpoints" / "0").is_dir()
    logged = [line for line in read_metrics(workdir / "metrics.jsonl") if "test/top1" in line]
    assert [line["test/top1"] for line in logged] == [scores["test/top1"]]
    task = ZeroShot(named("class 000", "class 001", "class 002"), tokenizer=tokens)
    data = Experiment(config).data
    batch = data.prepare(jax.tree.map(jnp.asarray, data.read(data.rows("test"))), train=False)
    said, _ = judged(task, converted, batch)
    with np.load(workdir / "rows" / "test.npz") as rows:
        np.testing.assert_allclose(rows["probs"], said["probs"], atol=1e-5)


def test_running_it_again_resumes_and_scores_the_same(zero_shot, capsys):
    config, workdir, scores = zero_shot
    assert train_here(config | {"train": config["train"] | {"log_every": 1}}, workdir) == scores
    assert f"resuming {workdir} at step 0 of 0" in capsys.readouterr().out


def column_of(workdir, root, name: str, *arguments: str) -> dict[str, np.ndarray]:
    assert predict.main([str(workdir), f"--column={name}", "--fields=embedding", *arguments]) == 0
    column = Column(root, name)
    values = zip(column.ids.tolist(), column.read(list(range(len(column)))), strict=True)
    return {clip_id: value["embedding"] for clip_id, value in values}


def test_copies_are_views_beside_the_plain_prediction(zero_shot, root, capsys):
    _, workdir, _ = zero_shot
    plain = column_of(workdir, root, "plain")
    views = column_of(workdir, root, "views", "--copies=2")
    assert len(plain) == 14 and plain.keys() == views.keys()
    for name, value in views.items():
        assert value.shape == (3, 8) and value.dtype == np.float32
        np.testing.assert_allclose(value[0], plain[name], atol=1e-6)
        assert min(np.abs(value[i] - value[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-4, name
    again = column_of(workdir, root, "again", "--copies=2")
    for name, value in views.items():
        np.testing.assert_array_equal(again[name], value)
    assert Column(root, "views").spec.parameters["copies"] == 2
    data = Features(root=str(root), column="views", views="random")  # who reads them
    np.testing.assert_array_equal(data.read(data.rows("test"))["features"][0], views["test-000"])
    assert predict.main([str(workdir), "--column=views", "--fields=embedding", "--copies=3"]) == 2
    assert "was begun differently" in capsys.readouterr().err
    assert predict.main([str(workdir), "--column=dense", "--dense=4"]) == 2 and "dense" in capsys.readouterr().err


# Warm starts.

TEXT = r"^backbone/(text|prompts|logit_scale)"


def student(root, source, **train) -> Experiment:
    keywords = {"init_skip": (TEXT,), "init_new": ("^head/",)} | train
    return Experiment(
        run_of(
            root,
            model={"name": "xclip.VideoEncoder"} | SIDE,
            task={"name": "classify.Classify"},
            init=str(source),
            **keywords,
        )
    )


@pytest.fixture(params=["converted folder", "workdir"])
def source(request, converted, zero_shot):
    """(where from, what of it has no place in a student)"""
    return (converted, (TEXT,)) if request.param == "converted folder" else (zero_shot[1], (TEXT, "^prototypes$"))


def test_a_warm_start_takes_every_array_that_is_not_left_out(source, converted, root):
    folder, skip = source
    experiment = student(root, folder, init_skip=skip)
    state = jax.device_get(experiment.program.init(initial_weights.initial_weights(experiment)))
    cold = jax.device_get(experiment.program.init())
    arrays = convert.arrays_of(converted)
    names = {n for n in state["params"] if n.startswith("backbone/")}
    assert names == {f"backbone/{n}" for n in arrays if not n.startswith(("text", "prompts", "logit_scale"))}
    for name in names:
        np.testing.assert_array_equal(state["params"][name], arrays[name.removeprefix("backbone/")], err_msg=name)
    assert (
        np.abs(cold["params"]["backbone/projection/kernel"] - state["params"]["backbone/projection/kernel"]).max() > 0.1
    )
    np.testing.assert_array_equal(state["params"]["head/kernel"], cold["params"]["head/kernel"])


def test_what_does_not_fit_is_refused_by_name(root, converted):
    def refused(**train) -> str:
        with pytest.raises(lookup.ConfigError) as error:
            initial_weights.initial_weights(student(root, converted, **train))
        return str(error.value)

    message = refused(init_skip=())
    assert (
        "arrays have no place ['backbone/logit_scale', 'backbone/prompts/" in message and "train.init_skip" in message
    )
    message = refused(init_new=())
    assert "2 of our parameters are not there ['head/bias', 'head/kernel']" in message and "train.init_new" in message
    assert "config.train.init_skip: ['^txt'] match nothing" in refused(init_skip=("^txt", TEXT))
    assert "config.train.init_new: ['^weak_head'] match nothing" in refused(init_new=("^head", "^weak_head"))
    message = refused(init_new=("^head", "projection"))
    assert "1 arrays have no place ['backbone/projection/kernel']" in message


def test_other_shapes_and_places_are_refused(root, converted, tmp_path):
    config = run_of(
        root, model={"name": "xclip.VideoEncoder"} | SIDE | {"frames": 4}, task={"name": "classify.Classify"},
        init=str(converted), init_skip=(TEXT,), init_new=("^head/",),
    )  # fmt: skip
    config["data"]["frames"] = 4
    with pytest.raises(
        lookup.ConfigError, match=r"other shapes: \['backbone/integration/positions \(2, 8\), ours \(4, 8\)'\]"
    ):
        initial_weights.initial_weights(Experiment(config))
    with pytest.raises(lookup.ConfigError, match="no config.json; is this the --workdir"):
        initial_weights.initial_weights(student(root, tmp_path))
