"""k-means: our Lloyd iterations against scikit-learn's, from the same centroids, on the same points.

    python -m benchmarks.kmeans_vs_sklearn                                  # 1,000,000 × 512, K = 1,000: long on two cores
    python -m benchmarks.kmeans_vs_sklearn --n=100000 --iterations=5        # the same in small
    python -m benchmarks.kmeans_vs_sklearn --ours_only                      # where scikit-learn is not installed

Points are normal around 4 K centres, float32. Each side is timed whole, from points in memory to centroids in memory; ours twice,
since the first fit compiles. `ratio` is scikit-learn's time over our second one. `first` is our k-means++ over at most 256
points a centroid. Our inertia is of the assignment before the last move, scikit-learn's of the one after it.
"""

import argparse
import json
import os
import time

import jax
import numpy as np

from mtjax.clusters import kmeans


def points_of(n: int, d: int, k: int) -> np.ndarray:
    """float32 [n d], in blocks: a generator of doubles would need twice the memory."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4 * k, d), np.float32)
    points = rng.standard_normal((n, d), np.float32)
    for start in range(0, n, 65_536):
        points[start : start + 65_536] += centres[rng.integers(0, 4 * k, len(points[start : start + 65_536]))]
    return points


def timed(run) -> tuple[float, object]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kmeans_vs_sklearn", description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--ours_only", action="store_true")
    args = parser.parse_args(argv)
    points = points_of(args.n, args.d, args.k)
    first = points[np.random.default_rng(1).choice(args.n, args.k, replace=False)]
    facts: dict[str, object] = {"benchmark": "kmeans_vs_sklearn", **vars(args), "device": jax.devices()[0].device_kind}
    facts["cores"] = os.cpu_count()

    def ours():
        return kmeans.fit(points, args.k, seed=0, iterations=args.iterations, first=first)

    facts["first_fit_s"], _ = timed(ours)
    facts["fit_s"], found = timed(ours)
    facts["inertia"] = found.inertia
    sample = points[: 256 * args.k]
    facts["first_s"], _ = timed(lambda: kmeans.plus_plus(sample, args.k, seed=0))
    print(
        f"ours: {facts['fit_s']:.1f} s ({facts['first_fit_s']:.1f} s with compilation), k-means++ {facts['first_s']:.1f} s"
    )
    if not args.ours_only:
        from sklearn.cluster import KMeans

        theirs = KMeans(args.k, init=first, n_init=1, max_iter=args.iterations, tol=0.0, algorithm="lloyd")
        facts["sklearn_s"], fitted = timed(lambda: theirs.fit(points))
        facts["sklearn_iterations"], facts["sklearn_inertia"] = fitted.n_iter_, float(fitted.inertia_)
        facts["ratio"] = facts["sklearn_s"] / facts["fit_s"]
        print(f"scikit-learn: {facts['sklearn_s']:.1f} s, {fitted.n_iter_} iterations; ratio {facts['ratio']:.2f}")
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
