"""Padding, copies and transposes in the text of a TPU program, and the arithmetic of its table."""

import dataclasses

import pytest
from tpu_layouts import moves, padding
from tpu_programs import CHIPS, Counts, move_table, read, store, table

TEXT = """
%fused (p: f32[9,9]) -> f32[9,9] {
  %copy.9 = f32[9,9]{1,0} copy(%p)
}

ENTRY %main (x: bf16[8,112,112,32]) -> bf16[8,112,112,32] {
  %x = bf16[8,112,112,32]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %copy.1 = bf16[8,112,112,32]{0,3,2,1:T(8,128)(2,1)} copy(%x)
  %transpose_fusion = (f32[256,128]{1,0:T(8,128)}, f32[8]{0:T(128)}) fusion(%copy.1), kind=kLoop
  ROOT %fusion.2 = bf16[16,128]{1,0:T(8,128)(2,1)} fusion(%transpose_fusion), kind=kLoop
}
"""
COUNTS = Counts(
    variant="b0",
    chip="v5e",
    batch=8,
    remat=False,
    flops=2e10,
    traffic=1e9,
    peak=3 * 10**8,
    temporary=2 * 10**8,
    waste=0.25,
    moves=moves(TEXT),
    moved=10**7,
    seconds=60.0,
)


def test_padding_counts_the_tiles_of_the_last_axes():
    # A last axis of 8 images is padded to 128. Results inside of a fusion are not stored.
    values = [8 * 112 * 112 * 32 * 2, 256 * 128 * 4, 8 * 4, 16 * 128 * 2]
    padded = [16 * values[0], values[1], 128 * 4, values[3]]
    assert padding(TEXT) == pytest.approx(1 - sum(values) / sum(padded))


def test_copies_and_transposes_are_found_in_the_main_computation():
    assert [move.operation for move in moves(TEXT)] == ["copy", "transpose_fusion"]
    assert moves(TEXT)[0].bytes == 16 * 8 * 112 * 112 * 32 * 2


def test_rows_are_stored_and_printed(tmp_path):
    path = tmp_path / "programs.json"
    store(COUNTS, path)
    store(dataclasses.replace(COUNTS, seconds=1.0), path)
    store(dataclasses.replace(COUNTS, chip="v4"), path)
    assert [row.chip for row in read(path)] == ["v4", "v5e"]
    stored = read(path)[1]
    assert stored == dataclasses.replace(COUNTS, seconds=1.0)
    assert stored.roofline == pytest.approx(1e9 / CHIPS["v5e"].bandwidth)
    assert stored.fits == int((16 * 2**30 - 1e8) * 8 // 2e8)
    assert "| b0, 224 px | v5e | 8 | no | 2.50 | 125 | 0.30 | 25% |" in table([stored])
    assert "| b0 | v5e | 8 | 10 | 2% | 102.8 | copy |" in move_table([stored])
