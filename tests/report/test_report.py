"""report.html: one file that needs no network, correct and safe whatever the names are."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from report_runs import HOSTILE, a_best, a_run, a_table
from sklearn.metrics import roc_auc_score

from mlcls_jax.config import Config, Data, Evaluation, Group, Model, Phase
from mlcls_jax.data.loaders.loader import Reader
from mlcls_jax.evaluation.base_rate import BaseRate, model_scores
from mlcls_jax.evaluation.bootstrap import bootstrap_intervals
from mlcls_jax.report import live
from mlcls_jax.report.__main__ import main
from mlcls_jax.report.html import write_report
from mlcls_jax.report.inputs import gather
from mlcls_jax.report.live import LiveReport
from mlcls_jax.run.best_scores import read_best_evaluation, write_best_evaluation
from mlcls_jax.run.trained_model import load_trained_model, write_predictions
from mlcls_jax.run.workdir import REPORT, SCORES, prepare
from mlcls_jax.train import train


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(workdir, splits) -> Page:
    write_report(workdir, splits)
    return Page((workdir / REPORT).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    workdir, splits = a_run(folder)
    write_best_evaluation(workdir, a_best(splits["val"]))
    return page_of(workdir, splits)


def test_hostile_names_are_text_and_nothing_else(page):
    assert len(page.named("script")) == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    known = {
        "html",
        "head",
        "title",
        "style",
        "script",
        "body",
        "meta",
        "svg",
        "details",
        "summary",
    }
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"iframe", "i", "u", "link", "object"} and known <= tags
    for name in HOSTILE:
        assert name in page.text
    assert "t<b>'" not in page.text and "v<b>'" in page.text  # of val, as they are


def test_the_page_needs_no_network_and_runs_no_script_but_its_own(page):
    addresses = [
        value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href")
    ]
    assert all(value.startswith("data:image/jpeg;base64,") for value in addresses)
    inside = [attrs["xlink:href"] for _, attrs in page.tags if "xlink:href" in attrs]
    assert inside and all(value.startswith("#") for value in inside)
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_script_is_the_one_that_the_policy_allows(tmp_path):
    workdir, splits = a_run(tmp_path, ("a", "b"))
    write_report(workdir, splits)
    text = (workdir / REPORT).read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in text


def test_identifiers_used_in_charts_are_defined(page):
    defined = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    used = {attrs["xlink:href"][1:] for _, attrs in page.tags if "xlink:href" in attrs}
    assert used and used <= defined


def test_a_run_without_scores_or_samples_has_a_report_without_them(tmp_path):
    workdir, splits = a_run(tmp_path, ("a", "b"), sampled=False)
    page = page_of(workdir, splits)
    assert "mean average precision" in page.text and "Diagnosis" in page.text
    assert "Precision and recall" not in page.text
    (workdir / "metrics.jsonl").unlink()
    assert "Not evaluated yet" in page_of(workdir, splits).text


def test_scores_of_a_step_without_a_record_are_not_shown(tmp_path):
    workdir, splits = a_run(tmp_path, ("a", "b"))
    write_best_evaluation(workdir, a_best(splits["val"], step=30))
    assert gather(workdir, splits).best is None


def test_a_run_without_scores_is_shown_by_the_files_of_evaluate(tmp_path):
    workdir, splits = a_run(tmp_path, ("a", "b"))
    val, best = splits["val"], a_best(splits["val"])
    probabilities = best.decision_rule.probabilities(best.logits)
    write_predictions(workdir / "predictions_val.csv", val.filenames, probabilities, val.classes)
    result = {"step": 20, "thresholds": {"a": 0.25, "b": 0.75}}
    (workdir / "eval_val.json").write_text(json.dumps(result))
    scored = gather(workdir, splits).scored
    assert scored is not None
    np.testing.assert_allclose(scored.probabilities, probabilities, atol=2e-6)
    np.testing.assert_array_equal(scored.present, probabilities >= [0.25, 0.75])
    (workdir / "eval_val.json").write_text("{}")
    assert gather(workdir, splits).best is None


def test_the_best_evaluation_reads_back_and_a_broken_file_is_named(tmp_path):
    table = a_table(tmp_path, HOSTILE, 7, "v")
    best = a_best(table)
    write_best_evaluation(tmp_path, best)
    back = read_best_evaluation(tmp_path)
    assert back is not None
    np.testing.assert_array_equal(back.logits, best.logits)
    assert back.logits.dtype == np.float32
    assert replace(back, logits=best.logits).__dict__ == best.__dict__
    for contents in (b"", b"PK\3\4", (tmp_path / SCORES).read_bytes()[:-40]):
        (tmp_path / SCORES).write_bytes(contents)
        with pytest.raises(ValueError, match=r"scores\.npz cannot be read .*; remove it"):
            read_best_evaluation(tmp_path)


def test_a_report_of_80_classes_is_small(tmp_path):
    names = tuple(f"class {i}" for i in range(80))
    workdir, splits = a_run(tmp_path, names, val=400)
    write_best_evaluation(workdir, a_best(splits["val"]))
    write_report(workdir, splits)
    assert (workdir / REPORT).stat().st_size < 1e6  # without images: 36 of at most 60 kB


def test_the_best_evaluation_is_kept_and_the_last_report_made(tmp_path):
    workdir, splits = a_run(tmp_path, ("a", "b"))
    report = LiveReport(workdir, splits, 10**7, enabled=True)
    best = a_best(splits["val"])
    report.evaluated(0.5, lambda: pytest.fail("0.6 was better"))
    report.evaluated(0.6, lambda: best)
    found = report.close()
    assert read_best_evaluation(workdir) is not None and (workdir / REPORT).exists()
    assert found == gather(workdir, splits).findings


def test_a_full_disk_is_a_warning_and_the_best_evaluation_is_written_later(
    tmp_path, monkeypatch, capsys
):
    def full(*_):
        raise ValueError("scores.npz cannot be written: No space left on device")

    workdir, splits = a_run(tmp_path, ("a", "b"))
    report, best = LiveReport(workdir, splits, 10**7, enabled=True), a_best(splits["val"])
    with monkeypatch.context() as patch:
        patch.setattr(live, "write_best_evaluation", full)
        report.evaluated(0.7, lambda: best)
    assert read_best_evaluation(workdir) is None
    said = " ".join(capsys.readouterr().out.split())
    assert "scores.npz cannot be written: No space left on device; the next" in said
    report.evaluated(0.6, lambda: pytest.fail("0.7 was better"))
    assert read_best_evaluation(workdir) is not None
    report.close()


def test_each_map_is_named_for_what_it_is(tmp_path):
    workdir, splits = a_run(tmp_path, ("a", "b"))
    write_best_evaluation(workdir, a_best(splits["val"], step=10))
    write_report(workdir, splits)
    text = " ".join((workdir / REPORT).read_text(encoding="utf-8").split())
    assert "best evaluation, at step 10: the one with the highest val mAP" in text
    assert "The diagnosis looks at the last evaluation, at step 20." in text
    assert "<small>val mAP, best evaluation, 2 classes</small><b>0.4000</b>" in text
    assert "train mAP (sample, evaluation mode), 2 classes" in text
    assert "<small>val mAP over these 2 classes 0.4000</small>" in text
    assert "Train: over the 2 classes that are in the sample and in val. Val: over all 2" in text
    (workdir / "scores.npz").unlink()
    write_report(workdir, splits)
    text = (workdir / REPORT).read_text(encoding="utf-8")
    assert "<small>val mAP, last evaluation, 2 classes</small><b>0.6000</b>" in text


def test_auroc_is_that_of_scikit_learn_with_the_interval_of_evaluate(tmp_path):
    names = ("a", "b", "c")
    workdir, splits = a_run(tmp_path, names)
    splits["val"].labels[:, 2] = 1  # no negative
    best = a_best(splits["val"])
    write_best_evaluation(workdir, best)
    write_report(workdir, splits)
    markup = (workdir / REPORT).read_text(encoding="utf-8")
    text = Page(markup.replace("</td>", " </td>").replace("</th>", " </th>")).text
    labels, logits = splits["val"].labels, best.logits
    aurocs = [roc_auc_score(labels[:, c], logits[:, c]) for c in (0, 1)]
    intervals = bootstrap_intervals(labels, logits, np.ones(3, bool), 1000, Config().seed)
    cells = list(map(str.strip, text[text.index("Click a header") :].splitlines()))
    for name, auroc, interval in zip(names, aurocs, intervals.class_auroc, strict=False):
        assert interval is not None
        shown = f"{auroc:.3f} {interval.low:.3f} to {interval.high:.3f}"
        assert cells[cells.index(name) + 2] == shown
    assert intervals.class_auroc[2] is None
    mean = intervals.means["AUROC"]
    over_all = " ".join(text[text.index("Over all classes") :].split())
    assert f"2 classes {np.mean(aurocs):.4f} {mean.low:.3f} to {mean.high:.3f}" in over_all
    micro = roc_auc_score(labels.ravel(), logits.ravel())
    assert f"all pairs of image and class {micro:.4f} –" in over_all


def test_the_evaluation_with_the_lowest_loss_is_kept_if_the_loss_decides(tmp_path):
    workdir, splits = a_run(tmp_path, ("a", "b"))  # its losses are 0.4
    report = LiveReport(workdir, splits, 10**7, enabled=True, metric="loss")
    best = a_best(splits["val"])
    report.evaluated(0.5, lambda: pytest.fail("0.4 was better"))
    report.evaluated(float("nan"), lambda: pytest.fail("0.4 was better"))
    report.evaluated(0.3, lambda: best)
    report.close()
    assert read_best_evaluation(workdir) is not None


def test_only_the_first_process_writes(tmp_path):
    workdir, splits = a_run(tmp_path, ("a", "b"))
    report = LiveReport(workdir, splits, 10**7, enabled=False)
    report.evaluated(1.0, lambda: pytest.fail("nothing is to be kept"))
    assert report.close() == []
    assert not (workdir / REPORT).exists()


def test_reports_take_a_share_of_the_time_and_a_failure_is_a_warning(tmp_path, monkeypatch, capsys):
    workdir, splits = a_run(tmp_path, ("a", "b"))
    calls, now = [], [0.0]

    def write(*_, **__):
        calls.append(now[0])
        now[0] += 2
        raise RuntimeError("no room")

    monkeypatch.setattr(live, "write_report", write)
    monkeypatch.setattr(live.time, "perf_counter", lambda: now[0])
    report = LiveReport(workdir, splits, 10**7, enabled=True)
    for second in (1.0, 10.0, 42.0, 44.0, 50.0):
        now[0] = max(now[0], second)
        report.evaluated(0.1, lambda: pytest.fail("not the best"))
        if report._running is not None:
            report._running.result()
    assert calls == [1.0, 44.0]  # a report of 2 s is 5 % of 40 s
    assert report.close() == [] and len(calls) == 3
    assert "report.html could not be written: RuntimeError: no room" in capsys.readouterr().out


def test_the_command_writes_the_report(photos, tmp_path, capsys):
    workdir = tmp_path / "run"
    config = Config(data=Data(csv=str(photos / "labels.csv"), images=str(photos)))
    prepare(workdir, config, ("red", "green", "blue"))
    assert main(["--workdir", str(workdir)]) == 0
    printed = capsys.readouterr().out
    assert "few positives" not in printed and "have fewer than 20 positives" in printed
    assert (workdir / REPORT).exists() and "Wrote " in printed
    with pytest.raises(ValueError, match="holds no run"):
        main(["--workdir", str(tmp_path / "none")])


@pytest.mark.slow
def test_training_scores_the_same_sample_on_images_and_on_features(photos, tiny, tmp_path, capsys):
    config = Config(
        data=Data(csv=str(photos / "labels.csv"), images=str(photos), batch_size=8),
        model=Model(variant=tiny, weights="", image_size=32),
        evaluation=Evaluation(train_sample=7),
        phases=[
            Phase("head", "2 steps", [Group("head/.*", 1e-2)], cached_views=1),
            # A rate that changes nothing: both phases end with the same parameters.
            Phase("tail", "1 step", [Group("(head|backbone/top)/.*", 1e-30)]),
        ],
    )
    config.data.eval_batch_size = 8
    workdir = tmp_path / "run"
    assert train(config, workdir) == 0
    run, inputs = load_trained_model(workdir, "latest"), gather(workdir)
    train_split = inputs.splits["train"]
    rows = np.sort(np.random.default_rng(0).choice(len(train_split), 7, replace=False))
    sampled = train_split.take(rows)
    logits, _ = run.outputs(sampled.paths, Reader())
    values = model_scores(sampled, logits, BaseRate(**run.metadata["base_rate"])).values
    for record in inputs.records:
        sample = record["train_sample"]
        assert sample["images"] == 7
        for name in ("loss", "mAP"):
            assert sample[name] == pytest.approx(values[name], rel=1e-5)
        assert set(record["timing"]) >= {"compilation", "steps", "evaluation"}
    assert "start" in inputs.records[0]["timing"]
    page = Page((workdir / REPORT).read_text(encoding="utf-8"))
    assert "train mAP (sample, evaluation mode)" in page.text and "head/.*" in page.text
    assert any(attrs["src"] for attrs in page.named("img"))
    assert "have fewer than 20 positives" in capsys.readouterr().out


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_sorts_enlarges_and_chooses(tmp_path):
    names = ("b", "c", "a")
    workdir, splits = a_run(tmp_path, names)
    write_best_evaluation(workdir, a_best(splits["val"]))
    for path in splits["val"].paths:
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    page = page_of(workdir, splits)
    text = (workdir / REPORT).read_text(encoding="utf-8")
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv")) or ""
    clicks = """<script>
    const seen = [], buttons = document.querySelectorAll("th button");
    for (const column of [0, 0, 7, 7]) {
      buttons[column].click();
      const rows = [...buttons[0].closest("table").tBodies[0].rows];
      seen.push(rows.map((row) => row.cells[0].textContent).join(""));
    }
    const images = () => document.querySelectorAll("figure:not([hidden])").length;
    const zoom = document.querySelector(".zoom");
    zoom.click();
    seen.push(document.querySelectorAll("figure.large").length);
    zoom.click();
    seen.push(document.querySelectorAll("figure.large").length, images());
    choice.value = "b";  // of the page
    choice.dispatchEvent(new Event("change"));
    seen.push(images());
    document.title = seen.join(" ");
    </script></body>"""
    text = text.replace(policy, "").replace("</body>", clicks)
    (tmp_path / "clicks.html").write_text(text, encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "clicks.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    order = "".join(sorted(names, key=lambda name: -splits["train"].positives[names.index(name)]))
    *orders, large, small, everything, chosen = title[1].split()
    assert orders == ["abc", "cba", order, order[::-1]]
    figures = [json.loads(a["data-classes"] or "") for a in page.named("figure")]
    assert (large, small, int(everything)) == ("1", "0", len(figures))
    assert int(chosen) == sum("b" in classes for classes in figures) < len(figures)
