"""Losses: pure functions, one number per example, in nats where they are entropies. Tasks weight them by `valid`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "*b c"], labels: Int[Array, "*b"], *, smoothing: float = 0.0, focal_gamma: float = 0.0
) -> Float[Array, "*b"]:
    """Cross-entropy against integer labels, of examples or of their clips [b k]; 0 where there is none (label -1).

    Args:
      smoothing: e of the target (1 - e) + e / c on the label and e / c elsewhere (Szegedy et al. 2016, Sec. 7).
      focal_gamma: weights an example by (1 - p_label) ** gamma (Lin et al. 2017, Eq. 4).
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    at_label = jnp.take_along_axis(log_p, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    loss = -(1.0 - smoothing) * at_label - smoothing * log_p.mean(-1)
    if focal_gamma:
        loss = loss * (1.0 - jnp.exp(at_label)) ** focal_gamma
    return jnp.where(labels >= 0, loss, 0.0)


def soft_cross_entropy(
    logits: Float[Array, "*b c"], target: Float[Array, "*b c"], *, temperature: float = 1.0
) -> Float[Array, "*b"]:
    """Cross-entropy against a teacher's probabilities; at temperature T both sides are softened (p^(1/T), renormalised)
    and the result is multiplied by T², which keeps the size of the gradient (Hinton et al. 2015, Sec. 2)."""
    return -(_softened(target, temperature) * jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)).sum(-1) * (
        temperature**2
    )


def kl_divergence(
    logits: Float[Array, "*b c"], target: Float[Array, "*b c"], *, temperature: float = 1.0
) -> Float[Array, "*b"]:
    """`soft_cross_entropy` less the teacher's own entropy: the same gradient, and 0 where the student agrees."""
    soft = _softened(target, temperature)
    entropy = -(soft * jnp.log(jnp.maximum(soft, 1e-30))).sum(-1) * temperature**2
    return soft_cross_entropy(logits, target, temperature=temperature) - entropy


def _softened(probs: Float[Array, "*b c"], temperature: float) -> Float[Array, "*b c"]:
    if temperature == 1.0:
        return probs
    return jax.nn.softmax(jnp.log(jnp.maximum(probs, 1e-30)) / temperature)


def squared_error(predictions: Float[Array, "*b c"], targets: Float[Array, "*b c"]) -> Float[Array, "*b"]:
    """Mean over targets of the squared difference (PyTorch's MSELoss before its mean over the batch)."""
    return jnp.square(predictions.astype(jnp.float32) - targets).mean(-1)


def weighted_mean(values: Float[Array, "*b"], weights: Float[Array, "*b"]) -> Float[Array, ""]:
    """0 when all weights are 0: a batch of padding has no gradient."""
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1e-8)
