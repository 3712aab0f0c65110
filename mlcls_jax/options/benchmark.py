"""The command line of `benchmark`: its options, and checks of what they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
import dataclasses
from dataclasses import dataclass

from mlcls_jax.config import Config
from mlcls_jax.config.aliases import DATA, add_aliases, alias_overrides
from mlcls_jax.config.loading import load_config
from mlcls_jax.config.options import Parser, add_process_options
from mlcls_jax.run.input_paths import check_training_data
from mlcls_jax.system.command_line import refusing
from mlcls_jax.system.invocation import command

WHAT = ("input", "step", "train", "all")
_SECTIONS = ("data", "augment", "model")


@dataclass(frozen=True)
class Sweep:
    """A config field and the values to compare.

    Attributes:
        field: path in the config, such as "data.batch_size".
        values: as the user wrote them.
    """

    field: str
    values: tuple[str, ...]

    def override(self, value: str) -> str:
        """Returns the command-line option that sets the field.

        >>> Sweep("data.batch_size", ("16", "32")).override("32")
        '--config.data.batch_size=32'
        """
        return f"--config.{self.field}={value}"


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the remaining arguments, which are config overrides."""
    parser = Parser(
        prog=command("benchmark"),
        description="Measures how fast a config trains on this machine, and finds the bottleneck.",
        epilog="Any field of the config (see mlcls_jax/config/schema.py) can be overridden: "
        "--config.data.batch_size=64 --config.data.csv=labels.csv --config.data.images=photos",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="name of a config (b5) or path of a file")
    parser.add_argument(
        "--what",
        default="all",
        choices=WHAT,
        help="input: reading images, from files to devices; step: evaluation and the training "
        "step of each phase, on a batch that is already on the devices; train: training end to "
        "end; all (default): everything, and the bottleneck",
    )
    parser.add_argument(
        "--sweep",
        default="",
        metavar="FIELD=VALUES",
        help="repeat the benchmark for several values of a config field, such as "
        "batch_size=16,32,64",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON on stdout and text on stderr"
    )
    parser.add_argument(
        "--profile",
        default="",
        metavar="FOLDER",
        help="write a profiler trace of three more steps to this folder",
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="how many times each part is measured (default 5)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="length of each measurement (default 1)"
    )
    add_aliases(parser, DATA)
    add_process_options(parser)
    options, overrides = parser.parse_known_args(argv)
    overrides += alias_overrides(options, (), overrides)
    if options.sweep and options.profile:
        parser.error("--profile traces a single config; leave out --sweep")
    if options.repeats < 1 or not 0 < options.seconds < float("inf"):
        parser.error("--repeats must be at least 1, and --seconds above 0")
    return options, overrides


def check(argv: list[str]) -> None:
    """Reports a mistake in a command line and exits, before the imports that take seconds."""
    with refusing():
        _, configs = configs_of(*parse(argv))
        for config in configs:
            if config.data.csv:  # otherwise, images are generated
                check_training_data(config.data)


def configs_of(
    options: argparse.Namespace, overrides: list[str]
) -> tuple[Sweep | None, list[Config]]:
    """Returns the sweep, if there is one, and the config of each of its values.

    Args:
        options, overrides: from `parse`.

    Raises:
        ValueError: the config does not exist, or a value is wrong.
    """
    sweep = parse_sweep(options.sweep) if options.sweep else None
    added = [[sweep.override(value)] for value in sweep.values] if sweep else [[]]
    return sweep, [load_config(options.config, overrides + more) for more in added]


def parse_sweep(text: str) -> Sweep:
    """Parses the value of --sweep.

    Args:
        text: such as "batch_size=16,32,64" or "data.batch_size=16,32,64".

    Raises:
        ValueError: the text is malformed, or neither data, augment nor model has such a field.

    >>> parse_sweep("batch_size=16,32")
    Sweep(field='data.batch_size', values=('16', '32'))
    """
    name, _, listed = text.partition("=")
    values = tuple(value.strip() for value in listed.split(","))
    if not name or not all(values):
        raise ValueError(f"--sweep {text}: expected FIELD=VALUES, such as batch_size=16,32,64")
    config = Config()
    fields = [
        f"{section}.{field.name}"
        for section in _SECTIONS
        for field in dataclasses.fields(getattr(config, section))
    ]
    found = [field for field in fields if name in (field, field.partition(".")[2])]
    if not found:
        raise ValueError(
            f"--sweep {name}: data, augment and model have no such field; use batch_size, "
            "image_size, compute_dtype, variant or another field of theirs"
        )
    return Sweep(found[0], values)
