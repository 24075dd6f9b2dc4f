"""How Sphinx builds these pages: `make docs`, with every warning an error."""

from importlib import metadata

from docutils import nodes

project = "rfp-rnvm"
author = "the rfp-rnvm contributors"
project_copyright = "the rfp-rnvm contributors"
release = version = metadata.version("rfp-rnvm")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3  # [text](page.md#heading) is checked

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cost"]

html_theme = "furo"
html_title = f"rfp-rnvm {release}"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def strip_code(_app, doctree):
    """Drop the empty line that an example without output must end with."""
    for block in doctree.findall(nodes.literal_block):
        text = block.astext().rstrip()
        block.rawsource, block.children = text, []
        block += nodes.Text(text)


def setup(app):
    app.connect("doctree-read", strip_code)
