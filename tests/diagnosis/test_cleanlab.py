"""The example of docs/integrations.md: what cleanlab finds in out-of-fold probabilities."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.data.readers.corrections import read_corrections
from mlcls_jax.run.trained_model import write_predictions

ROOT = Path(__file__).parents[2]
CLASSES = ("a cat", "dog")


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_example_finds_planted_errors_and_writes_corrections(tmp_path, monkeypatch):
    pytest.importorskip("cleanlab")
    text = (ROOT / "docs/integrations.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(import numpy as np\n.*?cleanlab.*?)```", text, re.DOTALL)
    rng = np.random.default_rng(0)
    truth = rng.random((200, 2)) < 0.4
    scores = np.where(truth, rng.uniform(0.8, 1, truth.shape), rng.uniform(0, 0.2, truth.shape))
    given = truth.copy()
    planted = {(row, row % 2) for row in range(0, 200, 9)}
    for place in planted:
        given[place] ^= True
    names = [f"{i:03}.jpg" for i in range(200)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/folds").mkdir(parents=True)
    out_of_fold = tmp_path / "runs/folds/predictions_out_of_fold.csv"
    write_predictions(out_of_fold, names, scores, CLASSES)
    frame = pd.DataFrame(given.astype(int), columns=CLASSES)
    frame.insert(0, "filename", names)
    frame[::-1].to_csv("labels.csv", index=False)  # in another order
    exec(compile(code, "docs/integrations.md", "exec"), {})
    found = read_corrections("cleanlab.csv").labels
    assert set(found) <= {(names[i], CLASSES[c]) for i, c in planted}
    assert len(found) >= 0.5 * len(planted) and set(found.values()) == {UNKNOWN}
