"""One process of restore_matrix.py: evaluates what a workdir holds, and trains to the end.

python scripts/durability/restore_worker.py CONFIG WORKDIR OUT PORT PROCESSES PROCESS
"""

from pathlib import Path

import numpy as np

from mlcls_jax import cli
from mlcls_jax.config.loading import load_config
from mlcls_jax.data.loaders.threads import Reader
from mlcls_jax.evaluation.base_rate import probabilities
from mlcls_jax.evaluation.inference import predict_dataset
from mlcls_jax.run.checkpoints import has_checkpoint
from mlcls_jax.run.trained_model import load_trained_model
from mlcls_jax.run.workdir import read_splits_of
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.system import devices, distributed
from mlcls_jax.train import train


def main(arguments: list[str]) -> int:
    """Returns the exit code; process 0 writes OUT, the fields of restore_matrix.Result."""
    config_file, workdir, out = map(Path, arguments[:3])
    port, processes, process = map(int, arguments[3:])
    config = load_config(str(config_file), [])
    if processes > 1:
        limits = config.distributed
        address = f"127.0.0.1:{port}"
        distributed.start(address, processes, process, False, limits.timeout, limits.start_timeout)
    else:
        distributed.start()
    found = predicted(workdir) if has_checkpoint(workdir) else None
    if code := train(config, workdir):
        return code
    found = predicted(workdir) if found is None else found
    leaves = flatten(load_trained_model(workdir, "latest").variables["params"]).values()
    if devices.is_first_process():
        parameters = np.concatenate([np.ravel(leaf) for leaf in leaves])
        np.savez(out, probabilities=found, parameters=parameters)
    return 0


def predicted(workdir: Path) -> np.ndarray:
    """Float64 [image, class] of the validation images at the latest checkpoint."""
    run = load_trained_model(workdir, "latest")
    paths = read_splits_of(workdir, run.config.data)["val"].paths
    return probabilities(
        predict_dataset(run.predict, run.variables, paths, run.config, run.mesh, Reader())[0]
    )


if __name__ == "__main__":
    cli.run(main)
