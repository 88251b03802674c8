"""Any modality learns from clusters: features of a run, k-means, and MovT on the column of pseudo labels."""

from conftest import make_tracks_dataset, tiny_config, train_here

from mtjax.clusters import pseudo_labels
from mtjax.run.experiment import Experiment, open_run
from mtjax.run.prediction_column import write_column


def test_movt_trains_on_clusters_of_another_run(one_device, tmp_path):
    root = make_tracks_dataset(tmp_path / "data")
    teacher = tmp_path / "teacher"
    train_here(tiny_config(root, train__steps=4), teacher)
    write_column(*open_run(teacher, data={"root": str(root)}), "movt.embedding", (), ("embedding",))
    pseudo_labels.cluster(root, features="movt.embedding", column="pseudo.k3", k=3, splits=("train",), iterations=3)
    config = tiny_config(root, data__pseudo="pseudo.k3", train__steps=4)
    scores = train_here(config, tmp_path / "student")
    assert scores["test/n"] == 16 and 0 <= scores["test/top1"] <= 100
    data = Experiment(config).data
    assert data.class_names == ("cluster 0000", "cluster 0001", "cluster 0002")
    assert set(data.training_labels[data.rows("train")]) <= {0, 1, 2}
