"""Commands of a page are found, classified and run; pages with mistakes are reported."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
_SPEC = importlib.util.spec_from_file_location(
    "check_docs", ROOT / "scripts" / "measure" / "check_docs.py"
)
assert _SPEC and _SPEC.loader
check_docs = importlib.util.module_from_spec(_SPEC)
sys.modules["check_docs"] = check_docs  # its dataclasses look their module up
_SPEC.loader.exec_module(check_docs)

PAGE = """# A page

```bash
python -m mlcls_jax.train --config configs/b0.py \\
    '--config.phases[0].duration=0 steps'
python -m mlcls_jax.evaluate --workdir runs/b0
```

<!-- not run: needs a SLURM cluster -->
```bash
srun python -m mlcls_jax.train --cluster
```

```text
no command
```
"""


def test_the_blocks_of_a_page():
    (runs, skipped), mistakes = check_docs.read_blocks(PAGE, "page.md")
    assert not mistakes
    assert (runs.place, runs.reason) == ("page.md:3", "")
    assert runs.commands == [
        "python -m mlcls_jax.train --config configs/b0.py '--config.phases[0].duration=0 steps'",
        "python -m mlcls_jax.evaluate --workdir runs/b0",
    ]
    assert (skipped.place, skipped.reason) == ("page.md:10", "needs a SLURM cluster")


def test_a_reason_is_for_the_next_block_only():
    page = "<!-- not run: needs a GPU -->\n```bash\nfalse\n```\n```bash\ntrue\n```\n"
    blocks, _ = check_docs.read_blocks(page, "page.md")
    assert [block.reason for block in blocks] == ["needs a GPU", ""]


@pytest.mark.parametrize(
    ("page", "mistake"),
    [
        ("```\nls\n```\n", "without a language"),
        ("```bash\nls\n", "without an end"),
        ("<!-- not run: -->\n```bash\nls\n```\n", "the reason is missing"),
        ("```bash\nls  # all files\n```\n", "no # comments"),
    ],
)
def test_mistakes_are_named_with_their_line(page, mistake):
    _, (line,) = check_docs.read_blocks(page, "page.md")
    assert line.startswith("page.md:") and mistake in line


def test_a_block_stops_at_its_first_failure(tmp_path, capsys):
    good = check_docs.Block("page.md:1", "echo 1 > made\ntest -f made", "")
    bad = check_docs.Block("page.md:5", "false\necho 1 > never", "")
    assert check_docs.run_block(good, "bash", tmp_path, 60)[0] == 0
    assert check_docs.run_block(bad, "bash", tmp_path, 60)[0] == 1
    assert (tmp_path / "made").exists() and not (tmp_path / "never").exists()
    assert "page.md:5 in bash: exit code 1" in capsys.readouterr().out


def test_a_block_that_does_not_end_is_stopped(tmp_path):
    block = check_docs.Block("page.md:1", "sleep 60\ntrue", "")
    code, seconds = check_docs.run_block(block, "bash", tmp_path, 0.2)
    assert code == -9 and seconds < 30


def test_the_copy_has_the_data_that_commands_mention(tmp_path):
    check_docs.prepare(tmp_path)
    assert (tmp_path / "README.md").is_file() and (tmp_path / "photo.jpg").is_file()
    rows = (tmp_path / "labels.csv").read_text().splitlines()[1:]
    assert len(rows) == len(list((tmp_path / "photos").iterdir()))
    assert len(rows) == check_docs.TRAIN + check_docs.VAL


def test_our_pages_have_no_mistakes():
    pages = check_docs.find_pages([])
    assert ROOT / "README.md" in pages and ROOT / "docs" / "README.md" in pages
    for page in pages:
        assert not check_docs.read_blocks(page.read_text("utf-8"), page.name)[1]


def test_links_between_our_pages_lead_somewhere():
    for page in check_docs.find_pages([]):
        text = page.read_text("utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
            name, _, anchor = "".join(target).partition("#")
            if "://" in name:
                continue
            file = page.parent / name if name else page
            assert file.exists(), f"{page.name}: {name}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
                words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
                anchors = [heading.replace(" ", "-") for heading in words]
                assert anchor in anchors, f"{page.name}: {name}#{anchor}"


def test_the_index_names_every_file():
    folder = ROOT / "docs"
    index = (folder / "README.md").read_text("utf-8")
    for file in folder.iterdir():
        assert file.name == "README.md" or f"]({file.name})" in index, file.name


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
