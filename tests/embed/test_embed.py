"""embed writes the features that ml.load(...).embed returns, with the names of the images."""

import numpy as np
import pytest

import mlcls_jax as ml
from mlcls_jax.embed.__main__ import main, write_features

NAMES = ["b.jpg", "caf\u00e9/a.jpg"]


def test_features_of_a_folder_are_those_of_the_api(trained, photos, tmp_path, capsys):
    out = tmp_path / "features.npz"
    assert main([str(photos), "--workdir", str(trained), "--out", str(out)]) == 0
    assert f"Wrote {out} (40 images, " in capsys.readouterr().out
    with np.load(out) as written:  # without pickle
        names, features = list(written["filenames"]), written["features"]
    assert names == [f"{index:02}.png" for index in range(40)]
    expected = ml.load(trained).embed([photos / name for name in names])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-6)


def test_images_of_a_csv_keep_its_order_and_an_unreadable_one_is_left_out(
    trained, photos, tmp_path, capsys
):
    (tmp_path / "bad.png").write_bytes(b"no image")
    for name in ("07.png", "03.png"):
        (tmp_path / name).write_bytes((photos / name).read_bytes())
    csv, out = tmp_path / "names.csv", tmp_path / "features.npz"
    csv.write_text("filename,seen\n07.png,1\nbad.png,1\n03.png,1\n")
    options = ["--workdir", str(trained), "--out", str(out), "--on-bad-image", "skip"]
    assert main([str(csv), *options]) == 0
    assert "bad.png is skipped: " in capsys.readouterr().err
    with np.load(out) as written:
        assert list(written["filenames"]) == ["07.png", "03.png"]
        assert written["features"].shape[0] == 2
    with pytest.raises(ValueError, match="none of the images can be read"):
        main([str(tmp_path / "bad.png"), *options])


def test_parquet_has_the_names_and_one_list_for_each_image(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_features(tmp_path / "f.parquet", NAMES, features)
    table = pq.read_table(tmp_path / "f.parquet").to_pydict()
    assert table == {"filenames": NAMES, "features": features.tolist()}
    with pytest.raises(ValueError, match=r"'caf\\udce9\.jpg' is not valid UTF-8; rename"):
        write_features(tmp_path / "f.parquet", ["caf\udce9.jpg"], features[:1])
