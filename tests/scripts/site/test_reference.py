"""The pages of the site that are made from the code."""

import dataclasses

import command_reference
import config_reference
import pytest

from mlcls_jax.config import schema


def test_every_field_of_the_config_has_a_description():
    page = config_reference.page()
    sections = [schema.Config, schema.Phase, schema.Group]
    sections += [type(value) for value in vars_of(schema.Config())]
    for section in sections:
        for field in dataclasses.fields(section):
            is_section = dataclasses.is_dataclass(field.default_factory)
            if not is_section and field.name not in ("phases", "groups"):
                assert f"| `{field.name}` | " in page
    assert "| `loss` | " not in page and "## loss" in page


def vars_of(config: schema.Config) -> list:
    values = [getattr(config, field.name) for field in dataclasses.fields(config)]
    return [value for value in values if dataclasses.is_dataclass(value)]


def test_choices_defaults_and_comments_are_read():
    fields = {field.name: field for field in config_reference.fields_of(schema.Data)}
    assert fields["minus_one"].values == '`""` (default), `absent`, `unknown`'
    assert fields["batch_size"].values == "int, default `32`"
    assert fields["batch_size"].text == "Training images per step, over all devices."
    assert fields["filename_column"].values == 'str, default `"filename"`'
    assert "coco: a file instances\\_\\*.json" in fields["source"].text.replace("**", "")


def test_a_field_without_a_comment_is_an_error(monkeypatch):
    @dataclasses.dataclass
    class Bare:
        size: int = 1

    source = "class Bare:\n    size: int = 1\n"
    monkeypatch.setattr(config_reference, "_source", lambda: source)
    with pytest.raises(ValueError, match=r"Bare\.size has no comment"):
        config_reference.fields_of(Bare)


def test_the_help_of_a_command_is_that_of_the_command_line():
    assert command_reference.help_of("demo").startswith("usage: mlcls-jax demo")
