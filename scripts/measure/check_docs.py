"""List every shell command of the README and the docs, and run those that can run anywhere.

    python scripts/measure/check_docs.py                       # list
    python scripts/measure/check_docs.py --run                 # run in bash
    python scripts/measure/check_docs.py --run --shell bash zsh
    python scripts/measure/check_docs.py --run README.md       # one page; others build on README.md

A command stands in a fenced block marked `bash`. A block that needs an accelerator, a cluster, a
download, a long time or data of the user's own is preceded by a comment with its reason:

    <!-- not run: needs a SLURM cluster -->

The other blocks run once per shell, in order, in a temporary copy of the tracked files, so that a
block finds what the blocks before it wrote. Nothing in a command is replaced. The copy contains
the files that the pages mention: labels.csv, photos/ and photo.jpg, made from the demo's images.

The exit code is 1 if a block failed, or if a page has a mistake: a block without a language, an
empty reason, or a comment in a shell block, which interactive zsh does not know.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md")
FENCE = re.compile(r"^```(\S*)\s*$")
REASON = re.compile(r"^<!-- not run:(.*)-->\s*$")
BINARIES = ".binaries"  # folder of the command mlcls-jax in the copy
TRAIN, VAL = 48, 24  # images of the data that commands are run on


@dataclass(frozen=True)
class Block:
    """A fenced shell block: where it is, its text, and why it is not run ("" if it is)."""

    place: str
    text: str
    reason: str

    @property
    def commands(self) -> list[str]:
        """The commands of the block, continued lines joined."""
        joined = re.sub(r"\s*\\\n\s*", " ", self.text)
        return [line for line in joined.splitlines() if line.strip()]


def read_blocks(markdown: str, name: str) -> tuple[list[Block], list[str]]:
    """Return the shell blocks of a page, and a line for each mistake in it."""
    blocks: list[Block] = []
    mistakes: list[str] = []
    start, language, content, before = 0, "", [], ""
    for number, line in enumerate(markdown.splitlines(), 1):
        fence = FENCE.match(line)
        if not start and fence:
            start, language, content = number, fence[1], []
            if not language:
                mistakes.append(f"{name}:{number}: block without a language; write bash or text")
        elif start and fence and not fence[1]:
            if language == "bash":
                block = Block(f"{name}:{start}", "\n".join(content), _reason(before))
                blocks.append(block)
                mistakes += _mistakes(block, before)
            start, before = 0, ""
        elif start:
            content.append(line)
        else:
            before = line
    if start:
        mistakes.append(f"{name}:{start}: block without an end; close it")
    return blocks, mistakes


def _reason(before: str) -> str:
    match = REASON.match(before)
    return match[1].strip() if match else ""


def _mistakes(block: Block, before: str) -> list[str]:
    found = []
    if REASON.match(before) and not block.reason:
        found.append(f"{block.place}: a block is not run, but the reason is missing; write it")
    if re.search(r"(?:^|\s)#", block.text, re.MULTILINE):
        found.append(f"{block.place}: interactive zsh has no # comments; write it as text")
    return found


def find_pages(names: list[str]) -> list[Path]:
    """Return the named pages, or all of them."""
    return [page for pattern in names or PAGES for page in sorted(ROOT.glob(pattern))]


def prepare(folder: Path) -> None:
    """Copy the tracked files into a folder, and make the data that commands mention."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not deleted since
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    demo = folder / "made_data"
    counts = ["--train", str(TRAIN), "--val", str(VAL)]
    command = [sys.executable, "-m", "mlcls_jax.demo", "--out", str(demo), *counts]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    shutil.move(demo / "images", folder / "photos")
    shutil.move(demo / "labels.csv", folder / "labels.csv")
    shutil.copy(next((folder / "photos").glob("*.jpg")), folder / "photo.jpg")
    demo.rmdir()
    launcher = folder / BINARIES / "mlcls-jax"  # as pip would install it
    launcher.parent.mkdir()
    launcher.write_text(f"#!{sys.executable}\nfrom mlcls_jax.__main__ import main\n\nmain()\n")
    launcher.chmod(0o755)


def environment(folder: Path) -> dict[str, str]:
    """Return variables with which `python` is this one, and the package that of the copy."""
    binaries = [str(folder / BINARIES), str(Path(sys.executable).parent)]
    path = os.pathsep.join([*binaries, os.environ.get("PATH", "")])
    return os.environ | {"PATH": path, "PYTHONPATH": str(folder)}


def run_block(block: Block, shell: str, folder: Path, limit: float) -> tuple[int, float]:
    """Run a block until its first failure; return its exit code (-9: too long) and the seconds."""
    began = time.monotonic()
    flags = ["--noprofile", "--norc"] if shell == "bash" else ["-f"]
    with subprocess.Popen(
        [shell, *flags, "-e", "-c", block.text],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that its children can be stopped with it
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
    code = process.returncode
    if code:
        text = output.decode(errors="replace")[-2000:]
        print(f"--- {block.place} in {shell}: exit code {code}\n{block.text}\n{text}", flush=True)
    return code, time.monotonic() - began


def run_all(blocks: list[Block], shells: list[str], limit: float) -> bool:
    """Run blocks in each shell and print a table; return whether all succeeded."""
    rows = []
    for shell in shells:
        with tempfile.TemporaryDirectory(prefix="check_docs_") as name:
            folder = Path(name).resolve()
            prepare(folder)
            rows += [(b.place, shell, *run_block(b, shell, folder, limit)) for b in blocks]
    print("| block | shell | exit code | seconds |\n|---|---|---:|---:|")
    for place, shell, code, seconds in rows:
        print(f"| {place} | {shell} | {code} | {seconds:.0f} |")
    return not any(code for _, _, code, _ in rows)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", help="pages, such as docs/data.md (default: all)")
    parser.add_argument("--run", action="store_true", help="run the commands that can run anywhere")
    parser.add_argument("--shell", nargs="+", default=["bash"], choices=("bash", "zsh"))
    parser.add_argument("--limit", type=float, default=900, help="seconds for a block")
    options = parser.parse_args(arguments)
    if missing := [shell for shell in options.shell if shutil.which(shell) is None]:
        parser.error(f"--shell {missing[0]}: it is not installed")
    blocks: list[Block] = []
    mistakes: list[str] = []
    for page in find_pages(options.pages):
        found, wrong = read_blocks(page.read_text("utf-8"), page.relative_to(ROOT).as_posix())
        blocks, mistakes = [*blocks, *found], [*mistakes, *wrong]
    for block in blocks:
        for command in block.commands:
            print(f"{block.place}: {command}")
        print(f"    {f'not run: {block.reason}' if block.reason else 'runs'}")
    print("\n".join(mistakes), file=sys.stderr, end="\n" if mistakes else "")
    wanted = [block for block in blocks if not block.reason]
    print(f"{len(blocks)} blocks: {len(wanted)} run, {len(blocks) - len(wanted)} do not")
    succeeded = run_all(wanted, options.shell, options.limit) if options.run else True
    return 0 if succeeded and not mistakes else 1


if __name__ == "__main__":
    sys.exit(main())
