"""Tests this checkout's wheel on another Python or JAX, and prints a row with the result.

    sudo python scripts/matrix/matrix.py --root matrix/trixie             # Debian's newer release
    sudo python scripts/matrix/matrix.py --root matrix/trixie --jax 0.11.2 --fast
    sudo python scripts/matrix/matrix.py --root matrix/forky --suite forky         # its testing
    sudo python scripts/matrix/matrix.py --root matrix/noble --suite noble         # Ubuntu 24.04
    python scripts/matrix/matrix.py --jax 0.9.2 --fast                    # this machine's Python

With --root, debootstrap makes a folder with a release unless it exists. Everything then runs
inside it by chroot.  The files of git, with your changes, are copied.  Their wheel is built and
installed with the extra `test`, and pytest runs in the copy without its package folder, so what is
imported is the wheel; the few tests of the checkout itself are left out.  Arguments after -- go to
pytest.

How pip finds its registry, proxies and certificates is taken from this machine when it runs.  The
exit code is 1 if a test fails.
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

CHECKOUT = Path(__file__).parents[2]
PACKAGES = "python3,python3-venv,git,make,ca-certificates"
WORK = "opt/mlcls_jax_matrix"  # in the root folder
MIRROR, RECIPES = "http://deb.debian.org/debian", Path("/usr/share/debootstrap/scripts")
UBUNTU = {"noble": "http://archive.ubuntu.com/ubuntu"}  # Python 3.12, which no Debian release has
# Variables that tell programs how to reach the network.
PASSED_ON = ("PIP_", "SSL_", "CURL_", "REQUESTS_")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# Also hosts, because processes of a run find each other by the name of the machine.
COPIED = (Path("/etc/hosts"), Path("/etc/resolv.conf"), CERTIFICATES, Path("/etc/pip.conf"))
# Tests of the checkout rather than of the package: its sources, its git, and files at its top.
CHECKOUT_TESTS = (
    "--ignore=tests/scripts/measure",
    "--ignore=tests/test_dockerfile.py",
    "--ignore=tests/test_doctests.py",
    "--ignore=tests/test_imports.py",
    "--ignore=tests/test_vocabulary.py",
    "--ignore=tests/test_wheel.py",
    "--deselect=tests/config/test_config.py::"
    "test_every_field_is_read_by_a_module_other_than_the_config",
    "--deselect=tests/config/test_named.py::test_a_checkout_has_the_configs_at_its_top",
    "--deselect=tests/test_main.py::test_the_citation_has_the_version_of_the_package",
)
HEADER = "| Python | JAX | passed | failed | skipped | seconds |\n" + "|---" * 6 + "|"


@dataclass(frozen=True)
class Outcome:
    """Counts of a run of pytest; `failed` includes errors of fixtures."""

    python: str
    jax: str
    passed: int
    failed: int
    skipped: int
    seconds: float

    def row(self) -> str:
        """Returns a row of the table in Markdown."""
        counts = (self.passed, self.failed, self.skipped, round(self.seconds))
        return f"| {' | '.join(map(str, (self.python, self.jax, *counts)))} |"


class Machine:
    """This machine, or a folder with another system in which commands run by chroot."""

    def __init__(self, root: Path | None, work: Path):
        """Chooses where commands run.

        Args:
            root: folder with a system; None for this machine.
            work: folder for the copy, the wheel and the environments, as this machine names it.
        """
        self.root, self.work = root, work

    def path(self, outside: Path) -> str:
        """Returns how commands name a file in `work`."""
        return str(outside if self.root is None else Path("/") / outside.relative_to(self.root))

    def run(self, *command: str) -> str:
        """Runs a command and returns its output.

        Raises:
            ValueError: it failed.
        """
        line, env = self._line(command, self.work), environment(self.root)
        result = subprocess.run(
            line, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if result.returncode:
            last = "\n".join(result.stdout.splitlines()[-20:])
            raise ValueError(f"{shlex.join(command)} ended with {result.returncode}:\n{last}")
        return result.stdout

    def show(self, *command: str, folder: Path) -> None:
        """Runs a command in a folder and shows its output on stderr; it may fail."""
        subprocess.run(self._line(command, folder), env=environment(self.root), stdout=sys.stderr)

    def _line(self, command: Sequence[str], folder: Path) -> list[str]:
        text = f"cd {shlex.quote(self.path(folder))} && {shlex.join(command)}"
        return ["bash", "-c", text] if self.root is None else chroot_command(self.root, text)


def chroot_command(root: Path, text: str) -> list[str]:
    """Returns a command that runs a line of bash inside a root folder.

    /proc and /dev are bound in a mount namespace of their own, so nothing is left mounted.
    """
    folder = shlex.quote(str(root))
    inside = (
        f"mount --rbind /proc {folder}/proc && mount --rbind /dev {folder}/dev && "
        f"exec chroot {folder} bash -c {shlex.quote(text)}"
    )
    return ["unshare", "--mount", "--propagation", "private", "bash", "-c", inside]


def environment(root: Path | None) -> dict[str, str]:
    """Returns the environment of commands: of another system, only what the network needs."""
    if root is None:
        return dict(os.environ)
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PASSED_ON) or "_proxy" in name.lower()
    }
    passed.pop("PIP_FIND_LINKS", None)  # wheels for this machine's Python
    return passed | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}


def prepare_root(root: Path, suite: str) -> None:
    """Makes a folder with a release unless it is there, and copies how to reach the network.

    Args:
        root: the folder.
        suite: name of the release; may be newer than this machine's debootstrap.
    """
    if not (root / "usr/bin/python3").exists():
        subprocess.run(debootstrap_command(root, suite), check=True, stdout=sys.stderr)
    for path in COPIED:
        if path.exists():
            target = root / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def debootstrap_command(root: Path, suite: str) -> list[str]:
    """Returns the command that makes a folder with a release of Debian, or one of UBUNTU."""
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}"]
    if suite in UBUNTU:  # python3-venv is in universe; all releases share the script of gutsy
        options = ["--components=main,universe", suite, str(root), UBUNTU[suite]]
        return [*command, *options, str(RECIPES / "gutsy")]
    newer = [] if (RECIPES / suite).exists() else [MIRROR, str(RECIPES / "sid")]
    return [*command, suite, str(root), *newer]


def copy_checkout(folder: Path) -> None:
    """Copies the files of git, with their changes, and new files that are not ignored."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE).stdout
    for name in filter(None, names.decode().split("\0")):
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name)


def install(machine: Machine, jax: str) -> str:
    """Builds the wheel and installs it in an environment for the given JAX.

    Args:
        machine: where to install.
        jax: a version, or "" for the newest.

    Returns:
        The environment's Python, as commands name it.
    """
    source, wheels = machine.work / "checkout", machine.work / "wheels"
    venv = machine.work / f"venv-{jax or 'newest'}"
    shutil.rmtree(wheels, ignore_errors=True)
    copy_checkout(source)
    python = f"{machine.path(venv)}/bin/python"
    if not venv.exists():
        system = "python3" if machine.root else sys.executable
        machine.run(system, "-m", "venv", machine.path(venv))
    pip = (python, "-m", "pip", "--quiet")
    to = ("--wheel-dir", machine.path(wheels))
    machine.run(*pip, "wheel", "--no-deps", *to, machine.path(source))
    (wheel,) = wheels.glob("*.whl")
    pins = [f"jax=={jax}"] if jax else ["--upgrade", "jax"]
    machine.run(*pip, "install", "--no-compile", f"{machine.path(wheel)}[test]", *pins)
    reinstall = ("install", "--no-deps", "--force-reinstall")
    machine.run(*pip, *reinstall, machine.path(wheel))  # of an earlier run of the same version
    return python


def run_tests(machine: Machine, python: str, options: Sequence[str]) -> Outcome:
    """Runs pytest next to the tests, without the package's folder, and counts results."""
    source = machine.work / "checkout"
    shutil.rmtree(source / "mlcls_jax")
    versions = machine.run(
        python, "-c", "import jax, platform; print(platform.python_version(), jax.__version__)"
    )
    report, began = machine.work / "report.xml", time.monotonic()
    report.unlink(missing_ok=True)
    written = f"--junit-xml={machine.path(report)}"
    machine.show(python, "-m", "pytest", written, *CHECKOUT_TESTS, *options, folder=source)
    if not report.exists():
        raise ValueError("pytest wrote no report; its output is above")
    (version, jax), counts = versions.split()[-2:], count(report.read_text())
    return Outcome(version, jax, *counts, time.monotonic() - began)


def count(report: str) -> tuple[int, int, int]:
    """Returns how many tests passed, failed and were skipped, from a JUnit report."""
    suites = ElementTree.fromstring(report).iter("testsuite")
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in suites:
        for name in totals:
            totals[name] += int(suite.get(name, "0"))
    failed, skipped = totals["failures"] + totals["errors"], totals["skipped"]
    return totals["tests"] - failed - skipped, failed, skipped


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of the other system (default: none)")
    parser.add_argument("--suite", default="trixie", help="release of Debian, or noble of Ubuntu")
    parser.add_argument("--jax", default="", help="version of JAX (default: the newest)")
    parser.add_argument("--fast", action="store_true", help="leave out tests marked slow")
    work = CHECKOUT / "build/matrix"
    parser.add_argument("--work", type=Path, default=work, help="folder to use without --root")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.root is not None:
        if platform.system() != "Linux" or os.geteuid() != 0:
            raise ValueError("--root needs Linux and root, for chroot; leave it out or use sudo")
        root = options.root.resolve()
        prepare_root(root, options.suite)
        machine = Machine(root, root / WORK)
    else:
        machine = Machine(None, options.work.resolve())
    machine.work.mkdir(parents=True, exist_ok=True)
    chosen = ["-m", "not slow"] if options.fast else []
    outcome = run_tests(machine, install(machine, options.jax), [*chosen, *options.pytest])
    print(f"{HEADER}\n{outcome.row()}")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
