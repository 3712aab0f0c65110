"""The pages of the server: each is one HTML text that loads nothing, with the policy that holds it.

The templates are put together when the server starts, because a browser then needs one request and
the policy can name the script and the style by their hashes.
"""

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from mlcls_jax.data.images.extensions import EXTENSIONS

TEMPLATES = Path(__file__).with_name("templates")
STYLE = "serve.css"
PAGES = {
    "/": (
        "page.html",
        ("request.js", "csv.js", "files.js", "evidence.js", "thresholds.js", "cards.js", "page.js"),
    ),
    "/docs": ("docs.html", ("request.js", "docs.js")),
}


@dataclass(frozen=True)
class Pages:
    """The pages by path, and the Content-Security-Policy of all answers."""

    html: dict[str, str]
    policy: str


def make_pages() -> Pages:
    """Returns the pages; the policy allows only their own scripts and style."""
    style, html, scripts = _read(STYLE), {}, []
    endings = "|".join(sorted(ending[1:] for ending in EXTENSIONS))
    for path, (page, names) in PAGES.items():
        script = "".join(map(_read, names)).replace("{{ endings }}", endings)
        scripts.append(_hash(script))
        html[path] = _read(page).replace("{{ style }}", style).replace("{{ script }}", script)
    policy = (
        f"default-src 'none'; script-src {' '.join(scripts)}; style-src {_hash(style)}; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return Pages(html, policy)


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
