"""From a classifier and a data set to a table: raw maps once, with the network, then scores without it."""

from dgl_lib.evaluate.compare import choose_layers, gains, image_table, recalls, select, with_parts
from dgl_lib.evaluate.raw import Maps, column, every_map, maps_of_scales, raw_maps
from dgl_lib.evaluate.scores import BASELINES, Scores, better_baseline, choose, name_scales, per_image, report, score
