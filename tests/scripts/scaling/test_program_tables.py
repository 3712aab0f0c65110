"""The arithmetic of the tables, with this CPU's compiler and a small network."""

import program_tables
import pytest
from program_tables import MEMORIES, Setting, frozen_phase, head_rows, memory_rows

from mlcls_jax.system.devices import make_mesh


@pytest.mark.slow
def test_memory_per_image_and_what_fits(tiny):
    plain, with_remat = memory_rows(Setting(make_mesh(1), 64), [tiny], 4)
    for row, remat in ((plain, "no"), (with_remat, "yes")):
        network, is_remat, batch, each, fixed, *fits = row
        assert (network, is_remat, batch) == (f"{tiny}, 64 px", remat, "4")
        assert len(fits) == len(MEMORIES)
        for images, gigabytes in zip(map(int, fits), MEMORIES, strict=True):
            needed = float(fixed) * 1e6 + images * float(each) * 1e6
            assert needed == pytest.approx(gigabytes * 1e9, rel=0.05)


def test_parameters_of_both_heads(tiny):
    gap, decoder = head_rows(make_mesh(1), [tiny])
    channels = 1280  # in every lite variant
    assert gap[1:] == ["gap", gap[2], f"{channels * 80 + 80:,}"]
    assert decoder[1:] == ["mldecoder", decoder[2], "6,560,848"]  # as in test_ml_decoder.py
    numbers = [[int(cell.replace(",", "")) for cell in row[2:]] for row in (gap, decoder)]
    assert numbers[0][0] - numbers[0][1] == numbers[1][0] - numbers[1][1] > 0


def test_frozen_phases_train_from_a_stage_on():
    patterns = [frozen_phase(stages, 7).groups[0].pattern for stages in (0, 5, 7, 8)]
    late = r"head/.*|backbone/(stage[67]|top)/.*"
    assert patterns == [".*", late, "head/.*|backbone/top/.*", "head/.*"]
    assert program_tables.PHASES[0].groups[0].pattern == "head/.*"
