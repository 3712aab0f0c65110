"""Command that writes report.html of a run and prints its diagnosis.

mlcls-jax report --workdir runs/b5 [--explain] [--images 100]
mlcls-jax report --compare runs/a runs/b [--out comparison.html]
"""

import sys
from pathlib import Path

from mlcls_jax.options.report import COMPARISON, check, parse

if __name__ == "__main__":
    check(sys.argv[1:])  # at once; the imports below take longer

from mlcls_jax.data.images.decoding import image_libraries
from mlcls_jax.diagnosis.diagnose import lines
from mlcls_jax.report.compare import write_comparison
from mlcls_jax.report.html import write_report
from mlcls_jax.run.bucket_run import open_workdir
from mlcls_jax.run.workdir import REPORT
from mlcls_jax.system import command_line
from mlcls_jax.system.console import console


@image_libraries()
def main(argv: list[str]) -> int:
    """Runs the command and returns the exit code."""
    options = parse(argv)
    if options.compare:
        out = Path(options.out or COMPARISON)
        write_comparison(list(map(open_workdir, options.compare)), out)
        console.print(f"Wrote {out}")
        return 0
    workdir = open_workdir(options.workdir)
    explain = None
    if options.explain:
        from mlcls_jax.report.explanations import explain_by
        from mlcls_jax.system import distributed

        distributed.start()
        explain = explain_by(workdir)
    for line in lines(write_report(workdir, explain=explain, most=options.images)):
        console.print(line)
    console.print(f"Wrote {workdir / REPORT}")
    return 0


if __name__ == "__main__":
    if parse(sys.argv[1:]).explain:
        from mlcls_jax import cli  # imported late: it imports JAX, which only the maps need

        cli.run(main)
    command_line.run(main)
