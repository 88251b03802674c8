"""CLIP from Hugging Face's `CLIPModel` and from OpenAI's files (models.md §3)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtjax.convert import names
from mtjax.convert.names import Entry

CONSTRUCTOR = "openai_clip.CLIP"
# Buffers that hold no weights: positions counted up, OpenAI's sizes.
IGNORED = re.compile(r".*\.position_ids|input_resolution|context_length|vocab_size")

# OpenAI's (and X-CLIP's) name → Hugging Face's, in this order. `in_proj` is split and projections are transposed before.
OFFICIAL = (
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
TRANSPOSED = ("visual.proj", "text_projection")


def from_official(arrays: Mapping[str, np.ndarray], renames: tuple[tuple[str, str], ...] = OFFICIAL) -> dict[str, Any]:
    """OpenAI's names and layouts → Hugging Face's."""
    out: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name in TRANSPOSED:
            array = array.T
        new = name
        for pattern, replacement in renames:
            new = re.sub(pattern, replacement, new)
        if fused := re.fullmatch(r"(.*)\.in_proj_(weight|bias)", new):
            for letter, part in zip("qkv", np.split(array, 3), strict=True):
                out[f"{fused[1]}.{letter}_proj.{fused[2]}"] = part
        else:
            out[new] = array
    return out


def is_official(arrays: Mapping[str, np.ndarray]) -> bool:
    return "visual.conv1.weight" in arrays


def tower_settings(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Constructor keywords that CLIP and X-CLIP share; from shapes, and heads from the config (else 64 wide: CLIP's rule)."""
    patches = arrays["vision_model.embeddings.patch_embedding.weight"]
    positions = arrays["vision_model.embeddings.position_embedding.weight"]
    words = arrays["text_model.embeddings.token_embedding.weight"]
    grid = round((len(positions) - 1) ** 0.5)
    vision, text = config.get("vision_config", {}), config.get("text_config", {})
    return {
        "image": grid * patches.shape[-1],
        "patch": patches.shape[-1],
        "width": len(patches),
        "layers": count_layers(arrays, "vision_model.encoder.layers"),
        "heads": vision.get("num_attention_heads", len(patches) // 64),
        "vocabulary": len(words),
        "context": len(arrays["text_model.embeddings.position_embedding.weight"]),
        "text_width": words.shape[1],
        "text_layers": count_layers(arrays, "text_model.encoder.layers"),
        "text_heads": text.get("num_attention_heads", words.shape[1] // 64),
        "output": len(arrays["visual_projection.weight"]),
    }


def count_layers(arrays: Mapping[str, np.ndarray], prefix: str) -> int:
    return len({name[len(prefix) + 1 :].split(".")[0] for name in arrays if name.startswith(f"{prefix}.")})


settings = tower_settings


def table(keywords: Mapping[str, int]) -> list[Entry]:
    """Of `CLIPModel`."""
    return towers(keywords, pre_norm="pre_layrnorm")  # sic


def towers(keywords: Mapping[str, int], *, pre_norm: str) -> list[Entry]:
    """Both towers, their projections and the logit scale; X-CLIP adds to it."""
    seen, read = "vision_model", "text_model"
    entries = [
        *names.patch_embedding("vision/patches", f"{seen}.embeddings.patch_embedding", keywords["patch"]),
        *names.same("vision/class_token", f"{seen}.embeddings.class_embedding"),
        *names.same("vision/positions", f"{seen}.embeddings.position_embedding.weight"),
        *names.norm("vision/pre_norm", f"{seen}.{pre_norm}"),
        *names.norm("vision/post_norm", f"{seen}.post_layernorm"),
        *names.linear("projection", "visual_projection", bias=False),
        *names.same("text/tokens/embedding", f"{read}.embeddings.token_embedding.weight"),
        *names.same("text/positions", f"{read}.embeddings.position_embedding.weight"),
        *names.norm("text/final_norm", f"{read}.final_layer_norm"),
        *names.linear("text/projection", "text_projection", bias=False),
        *names.same("logit_scale", "logit_scale"),
    ]
    for i in range(keywords["layers"]):
        entries += layer(f"vision/layers/{i}", f"{seen}.encoder.layers.{i}", keywords["heads"])
    for i in range(keywords["text_layers"]):
        entries += layer(f"text/layers/{i}", f"{read}.encoder.layers.{i}", keywords["text_heads"])
    return entries


def layer(ours: str, theirs: str, heads: int) -> list[Entry]:
    """A pre-norm transformer layer."""
    return [
        *names.self_attention(f"{ours}/attention", f"{theirs}.self_attn", heads),
        *names.norm(f"{ours}/attention_norm", f"{theirs}.layer_norm1"),
        *names.norm(f"{ours}/mlp_norm", f"{theirs}.layer_norm2"),
        *names.linear(f"{ours}/up", f"{theirs}.mlp.fc1"),
        *names.linear(f"{ours}/down", f"{theirs}.mlp.fc2"),
    ]
