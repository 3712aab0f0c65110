"""The targets to which fuzz.py sends inputs; datasets is one only where pyarrow is installed."""

from importlib.util import find_spec

import fuzz_files
import fuzz_tables
import fuzz_text
from fuzz_work import Target

TARGETS = {
    target.name: target
    for target in (
        Target("images", fuzz_files.images, fuzz_files.read_image),
        Target("csv", fuzz_text.csvs, fuzz_text.read_table),
        Target("tables", fuzz_tables.tables, fuzz_tables.compare),
        Target("config", fuzz_text.overrides, fuzz_text.configure),
        Target("weights", fuzz_files.weights, fuzz_files.load),
        Target("runs", fuzz_files.runs, fuzz_files.read_run),
        Target("predict", fuzz_text.arguments, fuzz_text.run_predict),
    )
}
if find_spec("pyarrow"):
    TARGETS["datasets"] = Target("datasets", fuzz_tables.tables, fuzz_tables.compare_dataset)
