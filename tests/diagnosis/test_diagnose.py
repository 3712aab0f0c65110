"""The diagnosis of made-up runs, one for each of its rules."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import fisher_exact

from mlcls_jax.config import Group, Phase, loading
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.diagnosis.diagnose import diagnose, lines
from mlcls_jax.diagnosis.finding import Evidence, Finding, Labels, Rule, apply_rules
from mlcls_jax.diagnosis.label_rules import (
    CHANCE,
    few_positives,
    label_noise,
    val_unlike_train,
)
from mlcls_jax.diagnosis.overrides import for_shell
from mlcls_jax.diagnosis.rules import RULES

CLASSES = ("cat", "dog")


def table(positives: tuple[int, ...], images: int, prefix: str = "p") -> LabelTable:
    labels = np.zeros((images, len(positives)), np.int8)
    for column, count in enumerate(positives):
        labels[:count, column] = 1
    names = tuple(f"{prefix}{i}.jpg" for i in range(images))
    return LabelTable(Path("photos"), names, labels, CLASSES)


TRAIN, VAL = table((300, 150), 600), table((100, 50), 200)
HEAD = Phase("head", "6 epochs", [Group("head/.*", 1e-2)])
TUNE = Phase("tune", "12 epochs", [Group("head/.*", 5e-4), Group("backbone/.*", 3e-4, 1e-2)])
PHASES = {0: HEAD, 1: TUNE}


def records(phase, val, train=None, loss=0.2, base_loss=0.5, train_loss=0.1, first=0):
    """Records of evaluations with these mAPs; the base rate is 0.25."""
    losses = loss if isinstance(loss, list) else [loss] * len(val)
    made = []
    for i, (value, val_loss) in enumerate(zip(val, losses, strict=True)):
        record = {
            "step": first + 10 * (i + 1),
            "epoch": first / 10 + i + 1.0,
            "phase": phase,
            "loss_name": "bce",
            "train_loss": train_loss,
            "val": {"mAP": value, "loss": val_loss},
            "base_rate": {"mAP": 0.25, "loss": base_loss},
        }
        if train is not None:
            sample = {"mAP": train[i], "val_mAP": value, "loss": train_loss}
            record["train_sample"] = sample | {"classes": 2, "images": 200}
        made.append(record)
    return made


def of_labels(train=TRAIN, val=VAL, scored=None) -> Evidence:
    return Evidence([], labels=Labels(train, val, scored=scored))


def found_in(made):
    return diagnose(Evidence(made, PHASES, labels=Labels(TRAIN, VAL)))


def kinds(made):
    return [finding.kind for finding in found_in(made)]


def only(made):
    (finding,) = found_in(made)
    return finding


def test_each_kind_is_one_rule_and_a_rule_without_its_evidence_is_silent():
    names = [rule.kind for rule in RULES]
    assert len(set(names)) == len(names)
    nothing = Evidence([], PHASES)
    assert not any(rule.check(nothing) for rule in RULES if not rule.live)
    assert [finding.kind for finding in diagnose(nothing)] == ["nothing"]


def test_a_good_run_has_nothing_but_what_fine_tuning_brought():
    made = records("head", [0.6, 0.7], [0.65, 0.75])
    made += records("tune", [0.75, 0.8], [0.8, 0.85], first=20)
    finding = only(made)
    assert finding.kind == "fine-tuning" and not finding.next
    assert "changed val mAP by +0.1000" in finding.text and "0.7000" in finding.text
    assert kinds(records("tune", [0.7, 0.8], [0.75, 0.85])) == ["nothing"]
    assert kinds([]) == ["nothing"]


@pytest.mark.parametrize(
    ("val", "advice"),
    [
        ([0.3, 0.35, 0.4, 0.45, 0.5, 0.55], "--config.phases[1].duration=24 epochs"),
        ([0.55, 0.55, 0.55, 0.55, 0.55, 0.552], "a larger --config.model.variant"),
    ],
)
def test_underfitting(val, advice):
    finding = only(records("tune", val, [value + 0.02 for value in val]))
    assert finding.kind == "underfitting" and advice in finding.next
    assert "--config.phases[1].groups[1].learning_rate=0.0009" in finding.next
    share = (val[-1] + 0.02 - 0.25) / 0.75
    assert f"{share:.0%} of the way" in finding.text


def test_overfitting():
    made = records(
        "tune", [0.6, 0.7, 0.68, 0.66], [0.65, 0.8, 0.95, 0.99], loss=[0.3, 0.2, 0.25, 0.3]
    )
    finding = only(made)
    assert finding.kind == "overfitting"
    assert "at the last evaluation, mAP over the 2 classes in both is 0.9900" in finding.text
    assert "val mAP over all classes is 0.0400 below its best" in finding.text
    assert "a gap of 0.3300 (0.1000 before)" in finding.text
    assert "0.0400 below its best (step 20)" in finding.text and "1.50 times" in finding.text
    assert "--config.phases[1].patience=3" in finding.next
    assert "--config.phases[1].groups[1].weight_decay=0.03" in finding.next


def test_a_gap_without_a_falling_val_is_no_overfitting():
    assert kinds(records("tune", [0.6, 0.7, 0.72], [0.65, 0.9, 0.99])) == ["gap"]


def test_overfitting_is_found_if_all_images_were_memorised_from_the_start():
    made = records("tune", [0.40, 0.38], [1.0, 1.0], loss=[0.45, 0.9], train_loss=0.01)
    made[1]["train_sample"]["val_mAP"] = 0.41  # on images of which more were hard
    assert kinds(made) == ["overfitting"]


def test_without_a_training_sample_neither_fit_nor_gap_is_checked():
    assert kinds(records("tune", [0.7, 0.6], loss=[0.2, 0.4])) == ["nothing"]


@pytest.mark.parametrize("name", ["bce", "asl"])
def test_worse_than_the_base_rate(name):
    made = records("tune", [0.26], [0.27], loss=4.5)
    made[0]["loss_name"] = name
    finding = only(made)
    assert finding.kind == "base rate" and "no better than the base rate" in finding.text
    assert "4.5000" in finding.text and "0.2500" in finding.text
    assert "--config.phases[1].groups[0].learning_rate=5e-05" in finding.next


def test_a_run_that_diverges_is_worse_than_the_base_rate_whatever_its_order():
    made = records("tune", [0.31], [0.45], loss=28, train_loss=900.0)
    assert kinds(made) == ["base rate"]
    remembers = records("tune", [0.31], [0.95], loss=1.2, train_loss=0.01)
    assert kinds(remembers) == ["gap"]
    remembers += records("tune", [0.35], [0.9], loss=1.0, train_loss=0.02, first=10)
    remembers += records("tune", [0.31], [0.88], loss=1.3, train_loss=0.05, first=20)
    gap = only(remembers)
    assert "both have become worse: val mAP is 0.0400 below" in gap.text
    assert gap.next[0] == "--config.phases[1].groups[0].learning_rate=0.00017"


def test_a_run_that_hardly_learns_is_neither_overconfident_nor_at_its_ceiling():
    finding = only(records("head", [0.3] * 6, [0.32] * 6, loss=0.58, train_loss=0.6))
    assert finding.kind == "underfitting"
    assert finding.next[0] == "--config.phases[0].groups[0].learning_rate=0.03"
    fits = records("tune", [0.5], [0.58], loss=0.58, train_loss=0.45)
    assert kinds(fits[-1:]) == ["underfitting"]
    fits[0]["train_sample"]["mAP"] = fits[0]["train_sample"]["val_mAP"] = 0.7
    assert kinds(fits) == ["base rate"]  # no other rule says why


RISING = [0.5, 0.55, 0.6, 0.64, 0.68, 0.72]
RANDOM = Phase("tune", "12 epochs", [Group(".*", 1e-3)])


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (records("tune", RISING, [0.7] * 6), ["nothing"]),
        (records("tune", RISING, [0.99] * 6), ["nothing"]),  # val still improves
        (records("tune", RISING, [0.99] * 6, loss=[0.2] * 5 + [0.3]), ["gap"]),
        (
            records("head", RISING, [0.75] * 6)
            + records("tune", [0.70, 0.66], [0.99] * 2, loss=[0.2, 0.3], first=60),
            ["overfitting"],
        ),
        (
            records("head", RISING, [0.75] * 6)
            + records("tune", [0.73, 0.728], [0.99] * 2, first=60),
            ["gap", "fine-tuning"],
        ),
        (records("tune", [0.26, 0.27], [0.9, 0.95], loss=1.5), ["base rate"]),
    ],
    ids=["good", "rising", "too confident", "overfitting", "memorised", "hopeless"],
)
def test_one_cause_is_one_finding(made, expected):
    assert kinds(made) == expected


def test_random_weights_that_stay_are_named_and_explain_the_rest():
    for phase in (RANDOM, replace(RANDOM, batch_norm="train"), HEAD):
        made = records(phase.name, [0.26, 0.27, 0.27, 0.27], [0.28] * 4, loss=0.6)
        found = diagnose(Evidence(made, {0: phase}, weights=""))
        assert (found[0].kind == "random weights") == (phase.batch_norm == "frozen")
        assert len(found) == 1
    (found,) = diagnose(Evidence(records("tune", [0.3], [0.3]), {0: RANDOM}, weights=""))
    assert "statistics stay 0 and 1" in found.text
    assert found.next == ("--config.model.weights=imagenet", "--config.phases[0].batch_norm=train")


def test_no_two_findings_propose_values_for_one_field():
    rules = [
        Rule("a", lambda _: Finding("a", "A.", ("--x=1", "more images", "--y=2"))),
        Rule("b", lambda _: Finding("b", "B.", ("--x=3", "more images", "--z=4"))),
    ]
    one, other = apply_rules(rules, Evidence([]))
    assert one.next == ("--x=1", "more images", "--y=2")
    assert other.next == ("more images", "--z=4")


def test_a_good_ranking_with_a_bad_loss_is_overconfident_for_plain_bce_only():
    made = records("tune", [0.9], [0.95], loss=0.6)
    finding = only(made)
    assert finding.kind == "overconfident"
    assert "--config.evaluation.calibration=one" in finding.next
    (calibrated,) = diagnose(Evidence(made, PHASES, calibration="one"))
    assert calibrated.text.endswith("the class frequencies before calibration.")
    assert not any("calibration" in suggestion for suggestion in calibrated.next)
    made[0]["loss_name"] = "asl"
    assert kinds(made) == ["nothing"]


def test_a_frozen_backbone_at_its_ceiling():
    made = records("head", [0.5, 0.6, 0.65, 0.66, 0.661, 0.662], [0.7] * 6)
    finding = only(made)
    assert finding.kind == "ceiling" and "0.6620" in finding.text and "+0.0020" in finding.text
    assert 'Phase("finetune"' in finding.next[0]
    assert kinds(records("head", [0.5, 0.6, 0.65, 0.66, 0.67, 0.68], [0.7] * 6)) == ["nothing"]


def test_fine_tuning_without_a_gain_is_reported_with_what_to_try():
    made = records("head", [0.7], [0.75]) + records("tune", [0.66, 0.69], [0.7, 0.72], first=10)
    finding = only(made)
    assert finding.kind == "no gain" and "changed val mAP by -0.0100" in finding.text
    assert "--config.phases[1].groups[1].learning_rate=0.0001" in finding.next


def test_every_override_of_the_diagnosis_is_one_of_the_command_line(tmp_path):
    runs = [
        records("tune", [0.3] * 6, [0.32] * 6),
        records("tune", [0.3, 0.4], [0.32, 0.42]),
        records("tune", [0.7, 0.6], [0.8, 0.99]),
        records("tune", [0.26], [0.27], loss=4.5),
        records("tune", [0.9], [0.95], loss=0.6),
        records("head", [0.7], [0.75]) + records("tune", [0.66], [0.7], first=10),
    ]
    found = [finding for made in runs for finding in found_in(made)]
    found += diagnose(of_labels(table((3, 150), 600), table((20, 50), 200)))
    assert {"val unlike train", "few positives"} <= {finding.kind for finding in found}
    tried = {what.replace('"', "") for finding in found for what in finding.next}
    overrides = sorted(what for what in tried if what.startswith("--config"))
    assert len(overrides) > 10
    file = tmp_path / "config.py"
    file.write_text(
        "from mlcls_jax.config import Config, default_phases\n"
        "def get_config():\n    return Config(phases=default_phases())\n"
    )
    for override in overrides:
        loading.load_config(str(file), [override])


def test_val_unlike_train_is_fisher_s_exact_test():
    val = table((20, 50), 200)
    finding = val_unlike_train(of_labels(val=val))
    assert finding is not None and finding.kind == "val unlike train"
    assert "1 of 2 classes" in finding.text
    assert "cat (50.0% of train, 10.0% of val)" in finding.text and "dog" not in finding.text
    assert not val_unlike_train(of_labels())
    # The finding appears where the p-value of SciPy's own test passes the limit.
    results = {}
    for count in range(60, 101):
        p = fisher_exact([[count, 200 - count], [300, 300]]).pvalue * 2
        results[count] = p, bool(val_unlike_train(of_labels(val=table((count, 50), 200))))
    assert {found for _, found in results.values()} == {True, False}
    for p, found in results.values():
        if not CHANCE / 2 < p < CHANCE * 2:  # two ways to have two sides
            assert found == (p < CHANCE)


def test_classes_without_a_positive_label_do_not_differ():
    assert not val_unlike_train(of_labels(table((0, 150), 600), table((0, 50), 200)))


def test_rare_classes_are_named_with_their_numbers():
    finding = few_positives(of_labels(table((3, 150), 600)))
    assert finding is not None and finding.kind == "few positives" and "cat (3)" in finding.text
    assert "evaluation.min_positives=20" in finding.next[-1]
    assert not few_positives(of_labels(table((20, 150), 600)))


def test_classes_that_are_excluded_already_are_not_proposed_again():
    evidence = replace(of_labels(table((3, 150), 600)), min_positives=20)
    finding = few_positives(evidence)
    assert finding is not None and finding.next == ("more images of these classes",)
    assert "1 of 2 classes has fewer" in finding.text and "in no average" in finding.text


def test_labels_are_reported_whose_images_look_like_those_of_the_other_label():
    rng = np.random.default_rng(0)
    shape = VAL.labels.shape
    sure = rng.uniform(0.8, 1, shape), rng.uniform(0, 0.2, shape)
    probabilities = np.where(VAL.labels == 1, *sure)
    assert not label_noise(of_labels(scored=(VAL, probabilities)))
    probabilities[:30, 0] = rng.uniform(0, 0.2, 30)  # of 150 positives
    finding = label_noise(of_labels(scored=(VAL, probabilities)))
    assert finding is not None and finding.kind == "label noise"
    assert "labels of val may be wrong, 0 of 0 and" in finding.text
    assert "cat is labelled 1, 0." in finding.text
    assert diagnose(of_labels(scored=(VAL, probabilities))) == [finding]


def test_lines_have_what_to_try_below_each_sentence():
    finding = only(records("tune", [0.26], [0.27], loss=4.5))
    title, first, *others = lines([finding])
    assert title == "Diagnosis:" and lines([]) == []
    assert first == f"- {finding.text}"
    assert others == [f"    try: {for_shell(what)}" for what in finding.next]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_suggested_override_is_pasted_as_one_argument(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    texts = [
        "--config.phases[1].duration=2 epochs",
        "--config.data.csv=it's {a,b}*?.csv",
        "--a=$b^#!",
    ]
    command = f"printf '%s\\n' {' '.join(map(for_shell, texts))}"
    printed = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines() == texts
