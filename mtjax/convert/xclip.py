"""X-CLIP from Hugging Face's `XCLIPModel` and from the authors' files (models.md §4)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtjax.convert import clip, names
from mtjax.convert.names import Entry

CONSTRUCTOR = "xclip.XCLIP"
IGNORED = clip.IGNORED

OFFICIAL = (
    (r"^visual\.ln_pre\.", "vision_model.pre_layernorm."),
    (r"^mit\.positional_embedding$", "mit.position_embedding"),
    (r"^mit\.resblocks\.", "mit.encoder.layers."),
    (r"^prompts_visual_ln\.", "prompts_visual_layernorm."),
    (r"^prompts_visual_proj$", "prompts_visual_projection"),
    (r"^prompts_generator\.norm\.", "prompts_generator.layernorm."),
    *clip.OFFICIAL,
)


def from_official(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The authors' names and layouts → Hugging Face's."""
    return clip.from_official(arrays, OFFICIAL)


is_official = clip.is_official


def settings(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Constructor keywords, from shapes; numbers of heads from the config, else CLIP's rule of 64 wide."""
    shared = clip.tower_settings(config, arrays)
    output = shared["output"]
    return shared | {
        "frames": arrays["mit.position_embedding"].shape[1],
        "mit_layers": clip.count_layers(arrays, "mit.encoder.layers"),
        "mit_heads": config.get("vision_config", {}).get("mit_num_attention_heads", output // 64),
        "prompt_layers": clip.count_layers(arrays, "prompts_generator.decoder"),
        "prompt_heads": config.get("prompt_num_attention_heads", output // 64),
    }


def table(keywords: Mapping[str, int]) -> list[Entry]:
    """Of `XCLIPModel`."""
    frames, output, width = keywords["frames"], keywords["output"], keywords["width"]
    entries = clip.towers(keywords, pre_norm="pre_layernorm")
    for i in range(keywords["layers"]):
        ours, theirs = f"vision/layers/{i}", f"vision_model.encoder.layers.{i}"
        entries += names.linear(f"{ours}/message", f"{theirs}.message_fc")
        entries += names.norm(f"{ours}/message_norm", f"{theirs}.message_ln")
        entries += names.self_attention(f"{ours}/message_attention", f"{theirs}.message_attn", keywords["heads"])
    entries += names.reshaped("integration/positions", "mit.position_embedding", (frames, output), (1, frames, output))
    for i in range(keywords["mit_layers"]):
        entries += clip.layer(f"integration/layers/{i}", f"mit.encoder.layers.{i}", keywords["mit_heads"])
    return entries + prompts(keywords, (width, output))


def prompts(keywords: Mapping[str, int], projection: tuple[int, int]) -> list[Entry]:
    """The video-conditioned prompt generator; its visual projection is stored as we store it, (in, out)."""
    entries = [
        *names.norm("prompts/patch_norm", "prompts_visual_layernorm"),
        *names.reshaped("prompts/patch_projection/kernel", "prompts_visual_projection", projection, projection),
        *names.norm("prompts/norm", "prompts_generator.layernorm"),
        *names.same("prompts/alpha", "prompts_generator.alpha"),
    ]
    for i in range(keywords["prompt_layers"]):
        ours, theirs = f"prompts/layers/{i}", f"prompts_generator.decoder.{i}"
        for name, letter in (("query", "q"), ("key", "k"), ("value", "v")):
            entries += names.heads_in(
                f"{ours}/attention/{name}", f"{theirs}.cross_attn.{letter}_proj", keywords["prompt_heads"]
            )
        entries += names.heads_out(f"{ours}/attention/out", f"{theirs}.cross_attn.proj", keywords["prompt_heads"])
        entries += names.norm(f"{ours}/attention_norm", f"{theirs}.norm1")
        entries += names.norm(f"{ours}/mlp_norm", f"{theirs}.norm3")
        entries += names.linear(f"{ours}/up", f"{theirs}.mlp.0") + names.linear(f"{ours}/down", f"{theirs}.mlp.3")
    return entries
