"""Former names of config fields are refused with the present name."""

import json

import pytest

from mlcls_jax.config.loading import load_config
from mlcls_jax.config.serialization import from_dict

FILE = """from mlcls_jax.config import Config, Evaluation

def get_config():
    return Config(evaluation=Evaluation({arguments}))
"""

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.mark.parametrize(
    ("former", "value", "present"),
    [
        ("thresholds", "f1", "threshold_criterion"),
        ("wanted", 0.5, "threshold_target"),
        ("tuned_positives", 3, "min_positives_to_tune"),
    ],
)
def test_a_former_name_is_refused_with_the_present_one(tmp_path, former, value, present):
    hint = rf"evaluation\.{former} is now evaluation\.{present}"
    file = tmp_path / "config.py"
    file.write_text(FILE.format(arguments=""))
    with pytest.raises(ValueError, match=hint):
        load_config(str(file), [f"--config.evaluation.{former}={value}"])
    file.write_text(FILE.format(arguments=f"{former}={value!r}"))
    with pytest.raises(ValueError, match=rf"config\.py line 4: TypeError: .*{hint}") as error:
        load_config(str(file), [])
    assert "Traceback" not in str(error.value)
    with pytest.raises(ValueError, match=hint):
        from_dict(json.loads(json.dumps({"evaluation": {former: value}})))
