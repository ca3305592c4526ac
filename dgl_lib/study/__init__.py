"""The study: its parameters, its steps, its claims, and the runner that puts them together.

Here stands what a notebook needs of it; see ``runner`` for the whole study.
"""

from dgl_lib.study import claims
from dgl_lib.study.paths import folder, runs_folder, weights_source
from dgl_lib.study.profile import Profile, check
from dgl_lib.study.steps import classifier, load, part, train_classifier
