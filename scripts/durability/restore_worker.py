"""One process of restore_matrix.py, which evaluates the checkpoint of a workdir and trains on.

python scripts/durability/restore_worker.py CONFIG WORKDIR OUT PORT PROCESSES PROCESS
"""

import argparse
from pathlib import Path

import numpy as np

from mlcls_jax import cli
from mlcls_jax.config.loading import load_config
from mlcls_jax.data.loaders.loader import Reader
from mlcls_jax.evaluation.base_rate import probabilities
from mlcls_jax.run.checkpoints import has_checkpoint
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.run.workdir import read_splits_of
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.system import devices, distributed
from mlcls_jax.train import train


def main(arguments: list[str]) -> int:
    """Returns the exit code; process 0 writes the fields of restore_matrix.Result to OUT."""
    options = parse(arguments)
    workdir = options.workdir
    config = load_config(options.config, [])
    if options.processes > 1:
        limits = config.distributed
        address = f"127.0.0.1:{options.port}"
        distributed.start(
            address,
            options.processes,
            options.process,
            False,
            limits.timeout,
            limits.start_timeout,
        )
    else:
        distributed.start()
    found = predicted(workdir) if has_checkpoint(workdir) else None
    if code := train(config, workdir):
        return code
    found = predicted(workdir) if found is None else found
    leaves = flatten(load_trained_model(workdir, "latest").variables["params"]).values()
    if devices.is_first_process():
        parameters = np.concatenate([np.ravel(leaf) for leaf in leaves])
        np.savez(options.out, probabilities=found, parameters=parameters)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", help="config file")
    parser.add_argument("workdir", type=Path, help="workdir of the run")
    parser.add_argument("out", type=Path, help=".npz file to write")
    parser.add_argument("port", type=int, help="port on which the processes meet")
    parser.add_argument("processes", type=int, help="number of processes")
    parser.add_argument("process", type=int, help="index of this process")
    return parser.parse_args(arguments)


def predicted(workdir: Path) -> np.ndarray:
    """Returns probabilities at the latest checkpoint, float64 [validation image, class]."""
    run = load_trained_model(workdir, "latest")
    paths = read_splits_of(workdir, run.config.data)["val"].paths
    return probabilities(run.outputs(paths, Reader())[0])


if __name__ == "__main__":
    cli.run(main)
