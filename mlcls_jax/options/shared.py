"""Options that several commands share, and checks of the run and the files that they name.

It imports nothing that takes long, so that a mistake is reported at once.
"""

import argparse
from pathlib import Path

from mlcls_jax.config import Config
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.checkpoint_integrity import FOLDER, check_step, saved_steps
from mlcls_jax.run.input_paths import is_list
from mlcls_jax.run.stored_config import OF_MODEL, check_config_kept, read_config
from mlcls_jax.system.files import check_writable
from mlcls_jax.system.remote import is_remote

VIEWS = ("none", "h", "hv", "d4", "crops")  # values of --tta; run/tta.py says what they are
_FORMER_VIEWS = {"flip": "h"}


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Adds the images that a command takes, and --images; see run/given_images.py."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE_OR_FOLDER",
        help="images and folders of images, or one CSV with a column of file names",
    )
    parser.add_argument(
        "--images", default="", help="folder of the images in the CSV (default: the CSV's folder)"
    )


def check_has_list(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exits if --images was given without a CSV of file names."""
    if options.images and not is_list(options.inputs):
        parser.error("--images is only for a single CSV of file names; leave it out")


def add_on_bad_image(parser: argparse.ArgumentParser) -> None:
    """Adds --on-bad-image."""
    parser.add_argument(
        "--on-bad-image",
        default="",
        choices=("error", "skip"),
        help="what to do with an image that cannot be read: stop, or skip it (default: the "
        "run's data.on_bad_image)",
    )


def add_tta(parser: argparse.ArgumentParser) -> None:
    """Adds --tta, which averages predictions over several views of an image."""
    parser.add_argument(
        "--tta",
        default="none",
        choices=VIEWS,
        type=view_name,
        help="test-time augmentation (default none): h averages the predictions for an image and "
        "its mirror image, at 2 times the cost; hv and d4 those for the 4 and 8 images of "
        "augment.symmetry; crops those for five crops and their mirror images, at up to 10 times "
        "the cost",
    )


def view_name(name: str) -> str:
    """Returns a value of --tta, also for one that had another name.

    >>> view_name("flip"), view_name("crops")
    ('h', 'crops')
    """
    return _FORMER_VIEWS.get(name, name)


def check_trained(workdir: str, checkpoint: str, accept_changed: bool = False) -> Config:
    """Returns the config of the run that --workdir names, if it has the checkpoint.

    Args:
        workdir: the option.
        checkpoint: of --checkpoint: "best", "latest" or the number of a step.
        accept_changed: whether config.json may have been edited.

    Raises:
        ValueError: the folder holds no run, there is no such checkpoint, or the config was edited.
    """
    path = open_workdir(workdir)
    config = read_config(path)
    check_step(path / FOLDER, saved_steps(path), checkpoint)
    check_config_kept(path, accept_changed, OF_MODEL)
    return config


def check_folder(option: str, file: str) -> None:
    """Checks that the file of an option can be written.

    Args:
        option: its name, without dashes.
        file: its value; "" if it was not given.

    Raises:
        ValueError: the file is in a bucket, or its folder does not exist or takes no files.
    """
    if not file:
        return
    if is_remote(file):
        raise ValueError(
            f"--{option} {file} is in a bucket, but this is written to a disk; name a file there, "
            "and copy it to the bucket afterwards"
        )
    folder = Path(file).absolute().parent
    if not folder.is_dir():
        raise ValueError(f"--{option} {file}: its folder does not exist; create it first")
    check_writable(folder)
