"""How predict finds images and describes predictions."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlcls_jax.config import Data
from mlcls_jax.evaluation.decision_rule import (
    DecisionRule,
    ThresholdCriterion,
    describe_thresholds,
    untuned_rule,
    with_threshold,
)
from mlcls_jax.predict import check_outputs, describe_prediction, main, parse
from mlcls_jax.run.given_images import find_images


@pytest.fixture
def folder(tmp_path) -> Path:
    images = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/deep/d.jpeg", "notes.txt", "sub/x.csv"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).touch()
    (images / "folder.jpg").mkdir()  # a folder with the name of an image
    return images


FOUND = ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.jpeg"]


def test_a_folder_is_searched_sorted_and_named_relative_to_it(folder, capsys):
    names, paths = find_images([str(folder)])
    assert names == FOUND
    assert paths == [str(folder / name) for name in FOUND]
    assert capsys.readouterr().err == f"{folder}: 2 other files are ignored\n"


def test_files_keep_their_order_and_their_names(folder, capsys):
    given = [str(folder / "b.jpg"), str(folder / "a.PNG"), str(folder / "b.jpg")]
    assert find_images(given) == (given, given)
    assert capsys.readouterr().err == ""


def test_a_file_argument_is_used_whatever_its_extension(folder):
    given = [str(folder / "notes.txt")]
    assert find_images(given) == (given, given)


@pytest.mark.parametrize("absolute", [True, False])
def test_a_folder_among_others_is_named_as_given(folder, monkeypatch, absolute):
    monkeypatch.chdir(folder.parent)
    base = folder if absolute else Path("photos")
    file = str(base / "b.jpg")
    names, paths = find_images([file, str(base / "sub")])
    assert names == paths == [file, str(base / "sub/c.webp"), str(base / "sub/deep/d.jpeg")]
    assert all(Path(path).is_file() for path in paths)


def test_hidden_files_of_a_folder_are_ignored(folder, capsys):
    for name in ("._b.jpg", ".DS_Store", ".cache/e.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert find_images([str(folder)])[0] == FOUND
    assert capsys.readouterr().err == f"{folder}: 5 other files are ignored\n"
    given = [str(folder / "._b.jpg")]
    assert find_images(given) == (given, given)


@pytest.mark.parametrize("address", ["https://x.org/a.jpg", "HTTP://x.org/"])
def test_an_address_of_the_web_is_refused(address):
    with pytest.raises(ValueError, match="an address of the web is no file or folder") as caught:
        find_images([address])
    assert str(caught.value).startswith(address)


def test_an_error_names_a_missing_file(folder):
    with pytest.raises(ValueError, match=r"nowhere\.jpg: no such file or folder"):
        find_images([str(folder / "b.jpg"), str(folder / "nowhere.jpg")])


def test_a_folder_without_images_is_an_error_that_lists_the_endings(folder):
    with pytest.raises(ValueError, match=r"folder\.jpg contains no images .*\.jpeg.*\.webp"):
        find_images([str(folder / "folder.jpg")])


CLASSES = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        ([0.1, 0.9, 0.3, 0.0, 0.2], "p.jpg: b 0.90; below threshold: c 0.30, e 0.20"),
        ([0.6, 0.9, 0.5, 0.49, 0.7], "p.jpg: b 0.90, e 0.70, a 0.60, c 0.50"),
        ([0.2, 0.2, 0.2, 0.2, 0.2], "p.jpg: none; below threshold: a 0.20, b 0.20, c 0.20"),
        ([1.0, 1.0, 1.0, 1.0, 1.0], "p.jpg: a 1.00, b 1.00, c 1.00, d 1.00, e 1.00"),
    ],
)
def test_a_line_has_all_predicted_classes_and_at_least_three_classes(scores, line):
    probabilities = np.array(scores)
    assert describe_prediction("p.jpg", probabilities, probabilities >= 0.5, CLASSES) == line


def test_a_line_with_fewer_than_three_classes():
    line = describe_prediction("p.jpg", np.array([0.25, 0.75]), np.array([False, True]), ("a", "b"))
    assert line == "p.jpg: b 0.75; below threshold: a 0.25"


def test_only_the_thresholds_decide_which_classes_are_present():
    line = describe_prediction("p.jpg", np.array([0.25, 0.75]), np.array([True, False]), ("a", "b"))
    assert line == "p.jpg: a 0.25; below threshold: b 0.75"


TUNED = DecisionRule(ThresholdCriterion("recall", 0.8, 10, "one"), (0.25, 0.5), (2.0, 2.0))


def test_one_threshold_replaces_the_tuned_ones_and_leaves_the_probabilities():
    one = with_threshold(TUNED, 0.3)
    assert one.thresholds == (0.3, 0.3)
    assert one.temperatures == TUNED.temperatures
    assert with_threshold(TUNED, None) is TUNED


def test_the_origin_of_the_thresholds_is_described():
    assert (
        describe_thresholds(TUNED, None)
        == "thresholds: per class, 0.25 to 0.50, tuned on val for recall 0.8"
    )
    assert describe_thresholds(TUNED, 0.3) == "threshold: 0.3 for every class"
    assert "0.5 for every class, as none were tuned" in describe_thresholds(
        untuned_rule(("a", "b")), None
    )


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "half"])
def test_a_threshold_must_be_a_probability(value, capsys):
    with pytest.raises(SystemExit):
        parse(["p.jpg", "--workdir", "w", "--threshold", value])
    assert "--threshold" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--csv", "--labels"])
def test_predictions_never_overwrite_labels(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Data(csv=str(tmp_path / "labels.csv"), test_csv="gs://bucket/test.csv")
    options = parse(["p.jpg", "--workdir", "w", option, "./labels.csv"])
    with pytest.raises(ValueError, match=rf"{option} \./labels\.csv would overwrite an input"):
        check_outputs(options, data)
    check_outputs(parse(["p.jpg", "--workdir", "w", option, "others.csv"]), data)


def test_labels_refuse_file_names_that_are_not_utf8():
    options = parse(["p.jpg", "--workdir", "w", "--labels", "decided.csv"])
    with pytest.raises(ValueError, match=r"'caf\\udce9\.jpg' is not valid UTF-8; rename"):
        check_outputs(options, Data(), ["猫.jpg", "caf\udce9.jpg"])


def ranked(capsys, *arguments: str) -> list[dict]:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_rank_orders_the_same_predictions(trained, photos, capsys):
    arguments = str(photos), "--workdir", str(trained)
    plain = ranked(capsys, *arguments)
    diverse = ranked(capsys, *arguments, "--rank", "diverse")
    uncertain = ranked(capsys, *arguments, "--rank", "uncertain")
    assert diverse[0] == uncertain[0]
    assert plain != diverse != uncertain
    for order in (diverse, uncertain):
        assert sorted(order, key=lambda one: one["filename"]) == plain


def test_runs_that_agree_everywhere_leave_the_order(trained, photos, capsys):
    arguments = str(photos), "--workdir", str(trained)
    committee = "--rank", "disagreement", "--committee", str(trained)
    assert ranked(capsys, *arguments, *committee) == ranked(capsys, *arguments)


def test_a_committee_belongs_to_disagreement(capsys):
    for extra in (["--rank", "disagreement"], ["--rank", "diverse", "--committee", "v"]):
        with pytest.raises(SystemExit):
            parse(["p.jpg", "--workdir", "w", *extra])
        assert "--committee go together: name further runs" in capsys.readouterr().err
