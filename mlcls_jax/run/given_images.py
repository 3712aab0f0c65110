"""The images that a command names: files, folders, or a CSV of file names."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mlcls_jax.data.readers.unlabelled import image_names, images_in, is_image, listed_images
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.input_paths import check_images, is_list
from mlcls_jax.run.stored_config import read_config
from mlcls_jax.system.console import escaped
from mlcls_jax.system.remote import is_remote


def named_images(inputs: Sequence[str], images: str, workdir: str) -> tuple[list[str], list[str]]:
    """Returns names and paths of the images, from a CSV of file names or from `find_images`.

    Args:
        inputs: images and folders, or one CSV.
        images: folder of the images in the CSV; "": the folder of the CSV.
        workdir: of the run, which says how the column of file names is called.

    Raises:
        ValueError: an argument or an image of the CSV does not exist, or there are no images.
    """
    if not is_list(inputs):
        return find_images(inputs)
    column = read_config(open_workdir(workdir)).data.filename_column
    return listed_images(inputs[0], images, column)


def find_images(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Finds the images that arguments name, in the order of the arguments.

    Images of a folder are sorted and include those of its subfolders. If the only argument is a
    folder, its images are named relative to it, as in a label CSV. All other images keep the names
    that they are given.

    Args:
        arguments: image files and folders of images, as paths or addresses.

    Returns:
        The names to report, and the paths to read.

    Raises:
        ValueError: an argument does not exist, or a folder contains no images.
    """
    check_images(arguments)
    names: list[str] = []
    paths: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if is_remote(argument) and not is_image(argument):
            found, folder = image_names(argument), argument.rstrip("/")
            names += found if len(arguments) == 1 else [f"{folder}/{name}" for name in found]
            paths += [f"{folder}/{name}" for name in found]
        elif path.is_dir():
            found = images_in(path)
            alone = len(arguments) == 1
            names += [(file.relative_to(path) if alone else file).as_posix() for file in found]
            paths += map(str, found)
            ignored = sum(file.is_file() for file in path.rglob("*")) - len(found)
            if ignored:
                print(escaped(f"{argument}: {ignored} other files are ignored"), file=sys.stderr)
        else:
            names.append(argument)
            paths.append(argument)
    return names, paths
