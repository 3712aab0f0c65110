"""Takes the screenshot of the web page in the docs.

    python scripts/page/page_screenshot.py --workdir runs/demo --out docs/page.png \\
        data/demo/images/val_00003.jpg data/demo/images/val_00005.jpg

Starts the server, opens its page, drops the images on it, and clicks the first class of the last
image. Needs Chromium and the extra `serve`.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from browser import PROGRAMS, browser
from server_load import server


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, help="images to drop on the page")
    parser.add_argument("--workdir", required=True, help="workdir of a run")
    parser.add_argument("--out", required=True, type=Path, help="PNG to write")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(900, 600), help="width and height (default 900 600)"
    )
    parser.add_argument("--dark", action="store_true", help="use the dark colours")
    options = parser.parse_args()
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise SystemExit(f"no Chromium found; install one of {', '.join(PROGRAMS)}")
    with (
        server(options.workdir) as port,
        tempfile.TemporaryDirectory() as profile,
        browser(program, Path(profile)) as page,
    ):
        width, height = options.size
        page.open(f"http://127.0.0.1:{port}/", width, height, options.dark)
        page.drop_files(200, 150, options.images)
        done = "document.querySelectorAll('.card[data-done]').length"
        page.wait_for(f"{done} === {len(options.images)}")
        page.run("document.querySelector('.bar').click()")
        page.wait_for("document.querySelector('.card[data-done] canvas') !== null")  # the map
        page.screenshot(options.out)


if __name__ == "__main__":
    main()
