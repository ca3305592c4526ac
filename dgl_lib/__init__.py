"""Dual-Gradients Localization (DGL): where is the object, asked of a classifier that was taught image labels only.

Data flows one way, and a module imports only from rooms earlier in the line::

    record -> image batch -> logits, tapped maps -> two gradients, raw map -> post-processing -> scores -> table, figure
    data      models         taps                   localize                  maps             metrics, evaluate   plots

``training`` makes the classifier, ``study`` runs the notebooks with a profile's parameters, ``app`` is the command. A
trained classifier opens with one call and knows its ``classes`` and its preprocessing::

    >>> from dgl_lib.data.creatures import Creatures
    >>> from dgl_lib.localize import dual_gradients
    >>> from dgl_lib.models import committed_checkpoint, load_checkpoint, preprocess
    >>> model = load_checkpoint(committed_checkpoint())  # or the path of your own
    >>> images = preprocess(model, [Creatures("val").image(0)], size=160)  # from (H, W, 3) uint8 arrays of any size
    >>> maps = dual_gradients(model, images, None, ["Mixed_6e"])  # None: of the predicted classes
    >>> maps["Mixed_6e"].shape  # raw and signed
    torch.Size([1, 20, 20])

Method: Tan, Gu, Ruan, Wei, Zhao, "Dual-Gradients Localization Framework for Weakly Supervised Object Localization",
ACM Multimedia 2020, doi 10.1145/3394171.3413622.
"""

__version__ = "0.1.0"
