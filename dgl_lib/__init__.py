"""Dual-Gradients Localization (DGL): where is the object, asked of a classifier that was taught image labels only.

Data flows one way, and a module imports only from modules earlier in the line::

    record -> image batch -> logits, tapped maps -> two gradients, raw map -> post-processing -> scores -> table, figure
    datasets                 models, taps           localize                  maps               metrics   plots

``training`` makes the classifier; ``study`` runs the notebooks with a profile's parameters; ``cli`` is the command.
A trained classifier opens with one call and knows its ``classes`` and, in ``mean`` and ``std``, its preprocessing::

    >>> from dgl_lib.models import committed_checkpoint, load_checkpoint, preprocess
    >>> from dgl_lib.localize import dual_gradients
    >>> model = load_checkpoint(committed_checkpoint())  # or the path of your own
    >>> images = preprocess(model, photographs, size=128)  # (N, 3, 128, 128) from (H, W, 3) uint8 arrays
    >>> classes = None  # the predicted ones
    >>> maps = dual_gradients(model, images, classes, ["Mixed_6e"])["Mixed_6e"]  # (N, h, w), raw and signed

Method: Tan, Gu, Ruan, Wei, Zhao, "Dual-Gradients Localization Framework for Weakly Supervised Object Localization",
ACM Multimedia 2020, doi 10.1145/3394171.3413622.
"""

__version__ = "0.1.0"
