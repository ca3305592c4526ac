"""From a classifier and a data set to a table: raw maps once, with the network; scores as often as wanted, without it.

raw            raw maps of every image, kept on disk
scores         raw maps -> histograms -> one tidy table, thresholds from validation
compare        the one choice of layers on validation, paired differences on test
treatments     multi-scale input and morphological closing
boxes          box scores and PxAP beside mask scores
normalisation  every method under several normalisations
mistakes       how not to evaluate
controls       wrong class, untrained, shuffled labels, low confidence
"""

from dgl_lib.evaluate.compare import (
    EFFECTS,
    better_baseline,
    choose_layers,
    column,
    effects,
    gains,
    image_table,
    recalls,
    select,
    with_parts,
)
from dgl_lib.evaluate.raw import Maps, every_map, maps_of_scales, raw_maps
from dgl_lib.evaluate.scores import (
    BASELINES,
    MEASURES,
    Scores,
    choose,
    fusions,
    gain,
    name_scales,
    per_image,
    report,
    score,
)
