"""How clusters agree with labels that they have not seen: purity and normalised mutual information."""

import numpy as np
from jaxtyping import Int


def contingency(cluster: Int[np.ndarray, " n"], label: Int[np.ndarray, " n"]) -> Int[np.ndarray, "k c"]:
    """How many items of each class each cluster has."""
    table = np.zeros((int(cluster.max(initial=-1)) + 1, int(label.max(initial=-1)) + 1), np.int64)
    np.add.at(table, (cluster, label), 1)
    return table


def purity(cluster: Int[np.ndarray, " n"], label: Int[np.ndarray, " n"]) -> float:
    """The share, in %, of items whose class is the commonest of their cluster. 100 when every item is a cluster of its own."""
    return 100.0 * float(contingency(cluster, label).max(1, initial=0).sum()) / max(len(label), 1)


def normalised_mutual_information(cluster: Int[np.ndarray, " n"], label: Int[np.ndarray, " n"]) -> float:
    """Mutual information over the mean of the two entropies, 0 to 1 (arithmetic mean, as scikit-learn); 1 when both have one
    value only."""
    joint = contingency(cluster, label) / max(len(label), 1)
    entropies = entropy(joint.sum(1)), entropy(joint.sum(0))
    if sum(entropies) == 0.0:
        return 1.0
    return max(0.0, 2.0 * (sum(entropies) - entropy(joint.ravel())) / sum(entropies))


def entropy(probability: np.ndarray) -> float:
    """In nats; 0 · log 0 = 0."""
    positive = probability[probability > 0]
    return float(-(positive * np.log(positive)).sum())
