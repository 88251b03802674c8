"""How a clip of `mannequin` looks: clothes, surroundings, thickness. Knows nothing of the action."""

import colorsys
import dataclasses

import numpy as np

NUM_PATCHES = 4


@dataclasses.dataclass(frozen=True)
class Look:
    """Colours are float [3] RGB in 0..255.

    Attributes:
      girth: scales the thickness of trunk and limbs.
      skin, hair, shirt, trousers, shoes, wall, floor: colours. accents: [3, 3] of the wall's texture.
      patch_colours: [NUM_PATCHES, 3], patch_boxes: [NUM_PATCHES, 4] x, y, half width, half height and
      patch_velocities: [NUM_PATCHES, 2] of the things that move behind the figure, in unit and unit per clip.
      occluder_colours: [2, 3].
      striped: whether the texture is made of stripes, else of blotches. grain: cells (or stripes) across the picture.
      light: [2] direction in the picture from which light falls.
      texture_seed: of the texture's pixels.
    """

    girth: float
    skin: np.ndarray
    hair: np.ndarray
    shirt: np.ndarray
    trousers: np.ndarray
    shoes: np.ndarray
    wall: np.ndarray
    floor: np.ndarray
    accents: np.ndarray
    patch_colours: np.ndarray
    patch_boxes: np.ndarray
    patch_velocities: np.ndarray
    occluder_colours: np.ndarray
    striped: bool
    grain: float
    light: np.ndarray
    texture_seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, shifted: bool) -> "Look":
        """Bright cool clothes before dark blotches, or, `shifted`, dark warm bulky clothes before light stripes.

        The two never overlap in girth, in hue, in the brightness of clothes and surroundings, nor in the kind of
        texture. People (skin, hair) and light are the same in both.
        """
        hue, cloth, around = (0.0, 0.18), (0.16, 0.42), (0.66, 0.92)
        if not shifted:
            hue, cloth, around = (0.45, 0.9), (0.68, 1.0), (0.2, 0.46)

        def colour(hues, saturation, value):
            return 255 * np.array(
                colorsys.hsv_to_rgb(rng.uniform(*hues), rng.uniform(*saturation), rng.uniform(*value))
            )

        def surroundings():
            return colour(hue, (0.05, 0.5), around)

        angle = rng.uniform(-2.6, -0.5)  # from above
        return cls(
            girth=rng.uniform(1.18, 1.36) if shifted else rng.uniform(0.84, 1.1),
            skin=colour((0.04, 0.09), (0.3, 0.6), (0.4, 0.95)),
            hair=colour((0.03, 0.12), (0.2, 0.8), (0.08, 0.5)),
            shirt=colour(hue, (0.35, 0.9), cloth),
            trousers=colour(hue, (0.25, 0.9), cloth),
            shoes=colour(hue, (0.0, 0.5), cloth),
            wall=surroundings(),
            floor=0.8 * surroundings(),
            accents=np.stack([surroundings() for _ in range(3)]),
            patch_colours=np.stack([surroundings() for _ in range(NUM_PATCHES)]),
            patch_boxes=rng.uniform((-0.1, -0.1, 0.03, 0.03), (1.1, 0.8, 0.16, 0.16), (NUM_PATCHES, 4)),
            patch_velocities=rng.uniform(-0.5, 0.5, (NUM_PATCHES, 2)) * (1, 0.4),
            occluder_colours=np.stack([0.75 * surroundings() for _ in range(2)]),
            striped=shifted,
            grain=rng.uniform(3, 9),
            light=np.array([np.cos(angle), np.sin(angle)]),
            texture_seed=int(rng.integers(2**31)),
        )
