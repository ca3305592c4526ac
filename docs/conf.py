"""The site (``make site``), from the project's root: pages, committed notebooks, results, the library's reference."""

project = "Dual-Gradients Localization, reproduced"
author = "The DGL reproduction authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "*.md",
    "notebooks/**",
    "results/*.md",
    "results/*/*.md",
    "dgl_lib/study/profiles/*.md",
]
nb_execution_mode = "off"  # the committed outputs, which nbval checks
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True}
# The docstrings are plain text for readers of the code, not all of it reStructuredText. Broken links stay errors.
suppress_warnings = ["docutils", "myst.header", "mystnb.mime_priority", "ref.python"]
html_theme = "furo"
html_title = "Dual-Gradients Localization"
html_css_files = ["wide.css"]
html_static_path = ["_static"]
html_show_copyright = False
