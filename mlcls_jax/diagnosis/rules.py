"""The table of all rules of the diagnosis, the most serious first."""

from mlcls_jax.diagnosis import curve_rules, label_rules, live_rules
from mlcls_jax.diagnosis.finding import Rule

RULES = (
    # Warnings while a run trains.
    Rule("above base rate", live_rules.above_base_rate, live=True),
    Rule("at base rate", live_rules.at_base_rate, live=True),
    Rule("equal predictions", live_rules.equal_predictions, live=True),
    Rule("oscillation", live_rules.oscillation, live=True),
    # Findings of the report.
    Rule(
        "random weights",
        curve_rules.random_weights,
        explains=("underfitting", "gap", "overconfident", "base rate", "no gain", "ceiling"),
    ),
    Rule("underfitting", curve_rules.underfitting, explains=("base rate", "no gain", "ceiling")),
    Rule("overfitting", curve_rules.overfitting, explains=("base rate", "no gain")),
    Rule("gap", curve_rules.gap, explains=("base rate", "no gain")),
    Rule("overconfident", curve_rules.overconfident),
    Rule("base rate", curve_rules.worse_than_base_rate),
    Rule("fine-tuning", curve_rules.fine_tuning),
    Rule("no gain", curve_rules.no_gain),
    Rule("ceiling", curve_rules.ceiling),
    Rule("val unlike train", label_rules.val_unlike_train),
    Rule("few positives", label_rules.few_positives),
    Rule("label noise", label_rules.label_noise),
)
