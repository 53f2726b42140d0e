"""How Sphinx makes a site of this folder: `./invoke build.docs`."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.highlighting import lexer_classes, lexers

_INIT = Path(__file__).resolve().parents[1] / "uplab" / "__init__.py"

project = "uplab"
author = "The uplab authors"
project_copyright = "The uplab authors, Apache-2.0"
version = release = "".join(re.findall(r'^__version__ = "(.*)"$', _INIT.read_text(), re.MULTILINE))

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["conf.py"]
# Headings get the anchors that they have where the files are read without this site.
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"uplab {release}"
html_show_sphinx = False
# Sources stand beside the checkout anyway; without them the site is half as large.
html_copy_source = False
# Nothing that depends on when or where it was built.
html_last_updated_fmt = None
# Nobody's program is coloured by a guess: a block without a language is text.
highlight_language = "text"
# Which languages Pygments knows is its own matter; the fences are for people and for editors.
lexers["sudoers"] = lexer_classes["none"]()
pygments_style = "friendly"
