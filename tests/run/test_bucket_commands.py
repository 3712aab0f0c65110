"""Every command with a run in a bucket, on fsspec's file system in memory."""

import json
from pathlib import Path

import pytest

import mlcls_jax as ml
from mlcls_jax import evaluate, predict
from mlcls_jax.export import __main__ as export
from mlcls_jax.options.shared import check_folder
from mlcls_jax.report import __main__ as report
from mlcls_jax.system.console import with_addresses
from mlcls_jax.system.files import check_new

RUN, PHOTOS = "memory://bucket/runs/lasagne", "memory://bucket/photos"


@pytest.fixture
def files(empty_bucket, photos, tiny):
    """Returns the file system with the photos, and a run of two steps on them."""
    empty_bucket.put(str(photos), PHOTOS, recursive=True)
    config = ml.Config(
        recipe="none",
        data=ml.Data(csv=f"{PHOTOS}/labels.csv", images=PHOTOS, batch_size=8, eval_batch_size=8),
        model=ml.Model(variant=tiny, weights="", image_size=32),
        evaluation=ml.Evaluation(train_sample=0),
        phases=[ml.Phase("all", "2 steps", [ml.Group("head/.*", 1e-2)])],
    )
    ml.train(config, RUN)
    return empty_bucket


@pytest.mark.slow
def test_every_command_takes_the_address_of_a_run(files, photos, tmp_path, capsys):
    assert evaluate.main(["--workdir", RUN, "--bootstrap", "0"]) == 0
    assert json.loads(files.cat_file(f"{RUN}/eval_val.json"))["num_images"] == 10
    assert f"Wrote {RUN}/eval_val.json" in with_addresses(capsys.readouterr().out)

    written = tmp_path / "predicted.csv"
    assert predict.main(["--workdir", RUN, f"{PHOTOS}/", "--csv", str(written)]) == 0
    assert len(written.read_text().splitlines()) == 41

    files.rm_file(f"{RUN}/report.html")
    assert report.main(["--workdir", RUN, "--explain"]) == 0
    assert b"<html" in files.cat_file(f"{RUN}/report.html")

    out = tmp_path / "exported"
    assert export.main(["--workdir", RUN, "--format", "stablehlo", "--out", str(out)]) == 0
    assert (out / "model.stablehlo").is_file()

    model = ml.load(RUN)
    here, there = model.predict([str(photos / "00.png"), f"{PHOTOS}/00.png"]).to_numpy()
    assert (here == there).all()


def test_other_files_of_commands_are_not_written_to_buckets():
    """A path would make a folder gs: on the disk."""
    with pytest.raises(ValueError, match=r"--csv gs://bucket/a\.csv is in a bucket, but"):
        check_folder("csv", "gs://bucket/a.csv")
    with pytest.raises(ValueError, match=r"^gs://bucket/exported is in a bucket, but"):
        check_new(Path("gs://bucket/exported"))
