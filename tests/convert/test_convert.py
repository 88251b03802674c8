"""Published weights become ours: parity with `transformers` on small random models, names both ways, refusals.

Full-size parity is measured by `python -m benchmarks.clip_parity`.
"""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from conftest import run_main
from flax import nnx
from safetensors.numpy import load_file

from mtjax import convert
from mtjax.convert import clip as clip_names
from mtjax.convert import names, positions, weight_files
from mtjax.models import openai_clip, xclip
from mtjax.types import random_streams

TEXT = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 12, "eos_token_id": 2, "bos_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip
KINDS = ("clip", "xclip")  # the video networks are in test_conv3d.py
IDS = np.array([[97, 5, 7, 98, 0, 0], [97, 3, 98, 0, 0, 0], [97, 8, 9, 10, 11, 98]], np.int32)


def randomise(model):
    """Norms and biases too: a swapped scale would not show at their initial ones and zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Kind → folder that `transformers` saved, with the model it saved."""
    root = tmp_path_factory.mktemp("hub")
    mit = {"mit_hidden_size": 32, "mit_intermediate_size": 128, "mit_num_attention_heads": 4, "num_frames": 3}
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=32)
    video = transformers.XCLIPConfig(
        text_config=TEXT, vision_config=VISION | mit, projection_dim=32, prompt_num_attention_heads=4
    )
    models = {"clip": transformers.CLIPModel(config), "xclip": transformers.XCLIPModel(video)}
    for kind, model in models.items():
        randomise(model).save_pretrained(root / kind)
    return {kind: (root / kind, model) for kind, model in models.items()}


def frames_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_clip_gives_the_embeddings_and_logits_of_transformers(folders):
    folder, reference = folders["clip"]
    ours, images = convert.load("clip", folder), frames_of(2, 32, 32, 3)
    with torch.no_grad():
        out = reference(torch.from_numpy(IDS).long(), torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(ours.logits(jnp.asarray(images), jnp.asarray(IDS)), out.logits_per_image, atol=1e-4)
    np.testing.assert_allclose(openai_clip.unit(ours.embed_image(jnp.asarray(images))), out.image_embeds, atol=1e-5)
    np.testing.assert_allclose(openai_clip.unit(ours.embed_text(jnp.asarray(IDS))), out.text_embeds, atol=1e-5)


def test_xclip_gives_the_embeddings_and_logits_of_transformers(folders):
    folder, reference = folders["xclip"]
    ours, frames = convert.load("xclip", folder), frames_of(2, 3, 32, 32, 3)
    with torch.no_grad():
        out = reference(torch.from_numpy(IDS).long(), torch.from_numpy(frames).permute(0, 1, 4, 2, 3))
    np.testing.assert_allclose(ours.logits(jnp.asarray(frames), jnp.asarray(IDS)), out.logits_per_video, atol=1e-4)
    np.testing.assert_allclose(ours.embed_video(jnp.asarray(frames)), out.mit_output.pooler_output, atol=1e-4)
    np.testing.assert_allclose(openai_clip.unit(ours.embed_video(jnp.asarray(frames))), out.video_embeds, atol=1e-5)


def test_each_vision_layer_agrees(folders):
    folder, reference = folders["xclip"]
    ours, frames = convert.load("xclip", folder), frames_of(6, 32, 32, 3)
    with torch.no_grad():
        hidden = reference.vision_model(
            torch.from_numpy(frames).permute(0, 3, 1, 2), output_hidden_states=True
        ).hidden_states
    x = jnp.asarray(hidden[0].numpy())
    for layer, expected in zip(ours.vision.layers, hidden[1:], strict=True):
        x = layer(x, frames=3)
        np.testing.assert_allclose(x, expected, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_converting_and_back_loses_nothing(kind, folders, tmp_path):
    folder, reference = folders[kind]
    assert run_main("mtjax.convert", kind, folder, tmp_path / "ours").returncode == 0
    done = run_main("mtjax.convert", kind, tmp_path / "ours", tmp_path / "back.safetensors", "--back")
    assert done.returncode == 0, done.stderr
    back = load_file(tmp_path / "back.safetensors")
    expected = {k: v.numpy() for k, v in reference.state_dict().items() if not k.endswith("position_ids")}
    assert back.keys() == expected.keys()
    assert all(np.array_equal(back[k], expected[k]) and back[k].shape == expected[k].shape for k in back)
    again = convert.load(kind, tmp_path / "ours")
    leaves = zip(jax.tree.leaves(nnx.state(again)), jax.tree.leaves(nnx.state(convert.load(kind, folder))), strict=True)
    assert all(np.array_equal(a, b) for a, b in leaves)


def official(kind: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Hugging Face's names and layouts → the authors', written from models.md's table, not from our renames."""
    pairs = [
        ("vision_model.embeddings.patch_embedding", "visual.conv1"),
        ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
        ("vision_model.pre_layrnorm", "visual.ln_pre"), ("vision_model.pre_layernorm", "visual.ln_pre"),
        ("vision_model.post_layernorm", "visual.ln_post"), ("vision_model.encoder.layers", "visual.transformer.resblocks"),
        ("visual_projection.weight", "visual.proj"), ("text_model.embeddings.token_embedding", "token_embedding"),
        ("text_model.embeddings.position_embedding.weight", "positional_embedding"), ("text_model.final_layer_norm", "ln_final"),
        ("text_projection.weight", "text_projection"), ("text_model.encoder.layers", "transformer.resblocks"),
        ("mit.position_embedding", "mit.positional_embedding"), ("mit.encoder.layers", "mit.resblocks"),
        ("prompts_visual_layernorm", "prompts_visual_ln"), ("prompts_visual_projection", "prompts_visual_proj"),
        ("prompts_generator.layernorm", "prompts_generator.norm"),
        (".self_attn.", ".attn."), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
    ]  # fmt: skip
    out: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        new = name
        for theirs, authors in pairs:
            new = new.replace(theirs, authors)
        if "resblocks" in new:
            new = new.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        if new in ("visual.proj", "text_projection"):
            array = array.T
        if "resblocks" in new and any(f".{p}_proj." in new for p in "qkv"):
            if ".q_proj." not in new:
                continue
            parts = [arrays[name.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            new, array = new.replace(".q_proj.", ".in_proj_"), np.concatenate(parts)
        out[new] = array
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_the_authors_file_gives_the_same_parameters(kind, folders, tmp_path):
    folder, reference = folders[kind]
    theirs = official(kind, {k: v.numpy() for k, v in reference.state_dict().items() if not k.endswith("position_ids")})
    assert any("in_proj_weight" in k for k in theirs)
    torch.save({"model": {f"module.{k}": torch.from_numpy(v.copy()) for k, v in theirs.items()}}, tmp_path / "zero.pth")
    expected = convert.convert(kind, folder)[1]
    config, arrays = weight_files.read(tmp_path / "zero.pth")
    room = convert.room_of(kind)
    arrays = room.from_official(arrays)
    keywords = room.settings(json.loads((folder / "config.json").read_text()), arrays)
    found = names.to_ours(room.table(keywords), arrays)
    assert config == {} and found.keys() == expected.keys()
    assert all(np.array_equal(found[k], expected[k]) for k in found)


def test_full_size_parameter_counts():
    def count(make) -> int:
        return sum(p.size for p in jax.tree.leaves(nnx.state(nnx.eval_shape(make), nnx.Param)))

    assert count(lambda: openai_clip.CLIP(rngs=random_streams(default=0))) == 149_620_737
    model = nnx.eval_shape(lambda: xclip.XCLIP(rngs=random_streams(default=0)))
    assert sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param))) == 194_929_153
    # 32 frames differ in the position table alone: 194,941,441.
    longer = nnx.eval_shape(
        lambda: xclip.FrameIntegration(512, 32, 1, 8, dtype=jnp.dtype("float32"), rngs=random_streams(default=0))
    )
    more = longer.positions.size - model.integration.positions.size
    assert 194_929_153 + more == 194_941_441
    sizes = {
        part: sum(p.size for p in jax.tree.leaves(nnx.state(getattr(model, part), nnx.Param)))
        for part in ("vision", "integration", "prompts")
    }
    assert sizes == {"vision": 121_253_376, "integration": 3_156_480, "prompts": 6_303_232 + 2 * 768 + 768 * 512}


def test_what_does_not_fit_is_named(folders, tmp_path):
    folder, reference = folders["clip"]
    arrays = {k: v.numpy() for k, v in reference.state_dict().items() if not k.endswith("position_ids")}
    keywords = clip_names.settings(json.loads((folder / "config.json").read_text()), arrays)
    less = {k: v for k, v in arrays.items() if k != "text_projection.weight"} | {"surplus": np.zeros(2)}
    with pytest.raises(names.ConversionError, match=r"1 arrays are missing \['text_projection.weight'\], 1 .*surplus"):
        names.to_ours(clip_names.table(keywords), less)
    with pytest.raises(names.ConversionError, match="no array 'mit.position_embedding'; is this a checkpoint of xclip"):
        convert.convert("xclip", folder)
    params = convert.convert("clip", folder)[1]
    with pytest.raises(names.ConversionError, match="text/positions needs"):
        convert.build("clip", keywords | {"context": 13}, params)
    with pytest.raises(names.ConversionError, match="kinds are"):
        convert.load("clap", folder)
    with pytest.raises(ValueError, match="8 frames, this X-CLIP's position table 3"):
        convert.load("xclip", folders["xclip"][0]).embed_video(jnp.zeros((1, 8, 32, 32, 3)))


def test_a_missing_source_says_what_to_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(names.ConversionError, match="pass the folder with config.json"):
        weight_files.read("nobody/nothing-at-all")
    with pytest.raises(names.ConversionError, match=r"neither model.safetensors nor pytorch_model.bin"):
        weight_files.read(tmp_path)


class Evil:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_checkpoint_cannot_run_code(tmp_path):
    evil = Evil(tmp_path / "was-run")
    torch.save({"model": evil}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(evil))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(names.ConversionError, match="not a file of weights alone"):
            weight_files.read(tmp_path / name)
    assert not (tmp_path / "was-run").exists()


def test_frames_in_chunks_change_neither_embeddings_nor_gradients(folders):
    folder, frames = folders["xclip"][0], jnp.asarray(frames_of(2, 3, 32, 32, 3))

    def embed(chunk: int):
        model = convert.load("xclip", folder, chunk=chunk)
        return nnx.jit(nnx.value_and_grad(lambda m: jnp.square(m.embed_video(frames)).sum()))(model)

    (expected, gradients), (found, chunked) = embed(0), embed(2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), chunked, gradients)


def test_remat_and_bfloat16_compute_the_same(folders):
    folder, _ = folders["xclip"]
    frames = jnp.asarray(frames_of(1, 3, 32, 32, 3))
    embed = nnx.jit(lambda model, frames: model.embed_video(frames))
    expected = embed(convert.load("xclip", folder), frames)
    again = embed(convert.load("xclip", folder, remat=True), frames)
    np.testing.assert_allclose(again, expected, atol=1e-6)
    with jax.numpy_dtype_promotion("standard"):  # Flax's own LayerNorm mixes types
        half = embed(convert.load("xclip", folder, dtype="bfloat16"), frames)
    assert half.dtype == jnp.bfloat16
    cosine = (openai_clip.unit(half) * openai_clip.unit(expected)).sum()
    assert float(cosine) > 0.999


def test_another_image_size_resizes_positions_as_transformers_does(folders):
    folder, model = folders["clip"]
    ours = convert.load("clip", folder, image=48)
    images = frames_of(2, 48, 48, 3)
    with torch.no_grad():
        theirs = model.get_image_features(
            torch.tensor(images.transpose(0, 3, 1, 2)), interpolate_pos_encoding=True
        ).pooler_output
    np.testing.assert_allclose(ours.embed_image(jnp.asarray(images)), theirs, atol=2e-5)


def test_a_position_table_that_is_no_square_is_refused():
    with pytest.raises(names.ConversionError, match="not a class token and a square"):
        positions.resize(np.zeros((8, 4), np.float32), 3)
