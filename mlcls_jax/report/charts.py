"""Charts of the report as inline SVG, in the colours of its light and dark mode.

Matplotlib draws them: a chart is 10 to 40 kB of SVG, while a library that draws in the browser
would be megabytes of JavaScript.  Colours are drawn as placeholders and then replaced by variables
of the style sheet.  Names of classes are added afterwards, escaped.
"""

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from mlcls_jax.evaluation.base_rate import SAMPLE
from mlcls_jax.report.class_figures import Bin

# Placeholder: variable of the style sheet.
_COLOURS = {
    "#010101": "currentColor",
    "#020202": "var(--grid)",
    "#030303": "var(--train)",
    "#040404": "var(--val)",
    "#050505": "var(--base)",
    "#060606": "var(--faint)",
}
INK, GRID, TRAIN, VAL, BASE, FAINT = _COLOURS
RUNS = 8  # runs in one chart
_COLOURS |= {f"#0{i}0a0a": f"var(--run{i})" for i in range(1, RUNS + 1)}
_STYLE: Any = {
    "svg.fonttype": "none",  # text in the font of the page
    "svg.hashsalt": "mlcls_jax",  # the same identifiers in every report
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "path.simplify": True,
}
_SIZE = 4.2, 2.8  # inches: 302 points, about the pixels of a phone


def curves(records: Sequence[dict[str, Any]], metric: str) -> Markup:
    """Returns a metric of train and val over the epochs, with the base rate and the phases.

    Args:
        records: records of metrics.jsonl, in order.
        metric: "mAP" or "loss".
    """

    def draw(axes: Any) -> None:
        epochs = [record["epoch"] for record in records]
        sampled = [record for record in records if SAMPLE in record]
        if sampled:
            values = [record[SAMPLE][metric] for record in sampled]
            axes.plot([r["epoch"] for r in sampled], values, color=TRAIN, label="train (sample)")
        values = [record["val"][metric] for record in records]
        axes.plot(epochs, values, color=VAL, label="val", marker="o", markersize=2.5)
        base = records[-1]["base_rate"][metric]
        axes.axhline(base, color=BASE, linestyle="--", linewidth=1.2, label="base rate")
        for record, after in itertools.pairwise(records):
            if record["phase"] != after["phase"]:
                axes.axvline(record["epoch"], color=INK, linewidth=0.8, linestyle=":")
        for name in dict.fromkeys(record["phase"] for record in records):
            phase = [record["epoch"] for record in records if record["phase"] == name]
            axes.text(
                (phase[0] + phase[-1]) / 2,
                1.02,
                name,
                transform=axes.get_xaxis_transform(),
                ha="center",
                fontsize=9,
            )
        if metric == "mAP":
            axes.set_ylim(0, 1.02)
        _epochs_below(axes, epochs)
        _legend_below(axes)

    return _chart(f"{metric} of train and val", draw)


def compared_curves(runs: Mapping[str, Sequence[dict[str, Any]]], metric: str) -> Markup:
    """Returns a metric of val over the epochs for several runs.

    Args:
        runs: records of metrics.jsonl by the name of the run; at most RUNS.
        metric: "mAP" or "loss".
    """

    def draw(axes: Any) -> None:
        for number, records in enumerate(runs.values(), start=1):
            x, y = [r["epoch"] for r in records], [r["val"][metric] for r in records]
            axes.plot(x, y, color=f"#0{number}0a0a", marker="o", markersize=2.5)
        if metric == "mAP":
            axes.set_ylim(0, 1.02)
        _epochs_below(axes, [r["epoch"] for records in runs.values() for r in records] or [1])

    return _chart(f"val {metric} of each run", draw)


def _epochs_below(axes: Any, epochs: Sequence[float]) -> None:
    """Labels the axis of the epochs, which is the same in all charts: whole numbers from 0 on."""
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", xlim=(0, max(*epochs, 1) * 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _legend_below(axes: Any) -> None:
    """Places the legend below the axes, where no line crosses it."""
    axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)


def precision_recall(each: Mapping[str, np.ndarray], pooled: np.ndarray) -> Markup:
    """Returns precision over recall in steps, whose area is the average precision.

    Args:
        each: curve of each class by its name, float64 [2, point], as
            `class_figures.precision_recall` returns.
        pooled: curve of all pairs of image and class, of the same form.
    """

    def draw(axes: Any) -> None:
        for number, (recall, precision) in enumerate(each.values()):
            line = axes.step(recall, precision, where="post", color=FAINT, linewidth=0.8)
            line[0].set_gid(f"class-{number}")
        axes.plot([], [], color=FAINT, linewidth=0.8, label="each class")
        axes.step(*pooled, where="post", color=VAL, label="all pairs of image and class")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
        _legend_below(axes)

    chart = _chart("precision over recall", draw)
    for number, name in enumerate(each):  # what a browser shows when the mouse is on the line
        group = f'<g id="class-{number}">'
        chart = Markup(chart.replace(group, f"{group}<title>{escape(name)}</title>"))
    return chart


def reliability(bins: Sequence[Bin]) -> Markup:
    """Returns the reliability diagram: the share of positives over the predicted probability."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=BASE, linestyle="--", linewidth=1.2)
        x, y = [bin_.probability for bin_ in bins], [bin_.positives for bin_ in bins]
        axes.plot(x, y, color=VAL, marker="o", markersize=4)
        for bin_ in bins:
            axes.annotate(
                f"{bin_.count:,}",
                (bin_.probability, bin_.positives),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set(xlabel="predicted probability", ylabel="share of positives")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.1))

    return _chart("calibration", draw)


def seconds(timing: dict[str, float]) -> Markup:
    """Returns the seconds of a run by activity.

    Args:
        timing: seconds by activity, not empty.
    """

    def draw(axes: Any) -> None:
        names = sorted(timing, key=lambda name: timing[name])
        values = [timing[name] for name in names]
        total = max(sum(values), 1e-9)
        bars = axes.barh(names, values, color=VAL, height=0.6)
        texts = [f"{value:,.0f} s, {value / total:.0%}" for value in values]
        axes.bar_label(bars, texts, padding=3, fontsize=9)
        axes.set_xlim(0, max(values) * 1.3)
        axes.set_xlabel("seconds")
        axes.grid(visible=False, axis="y")

    return _chart("seconds by activity", draw)


def speed(records: Sequence[dict[str, Any]]) -> Markup:
    """Returns images per second before each evaluation, on a logarithmic scale."""

    def draw(axes: Any) -> None:
        rates = [max(record["images_per_second"], 1e-3) for record in records]
        epochs = [record["epoch"] for record in records]
        axes.semilogy(epochs, rates, color=VAL, marker="o", markersize=2.5)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        few = max(rates) < 10 * min(rates)  # then too few powers of ten are on the axis
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:,g}" if few else "")
        axes.set_ylabel("images/s")
        _epochs_below(axes, epochs)

    return _chart("images per second", draw)


def _chart(title: str, draw: Callable[[Any], None]) -> Markup:
    """The SVG of a chart; title: for screen readers."""
    from matplotlib import rc_context  # takes half a second, so not before the first steps
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    return _inline(file.getvalue(), title)


def _inline(svg: str, title: str) -> Markup:
    """The drawing without its size, in the colours of the page."""
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None, "matplotlib wrote no viewBox"
    svg = svg[svg.index(">") + 1 :]
    # It would apply to the whole page, and the charts do not need it.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    for placeholder, colour in _COLOURS.items():
        svg = svg.replace(placeholder, colour)
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view[0]} role="img" '
    return Markup(head + f'aria-label="{title}">' + svg)
