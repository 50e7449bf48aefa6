r"""The words that settings can be."""

from __future__ import annotations

RECIPES = ("node_aware", "learned", "transform", "paper", "uniform", "float")
ALLOCATIONS = ("sensitivity", "degree", "uniform", "shuffled", "learned")
WHERE = ("output", "input", "both")
ALPHA_STARTS = ("sensitivity", "degree")
# Recipes that do not take every allocation.
ALLOCATIONS_OF = {
    "transform": ("sensitivity", "uniform", "shuffled", "learned"),
    "node_aware": ("sensitivity", "degree", "shuffled"),
    "learned": ("sensitivity", "shuffled"),
}
RANGES = ("symmetric", "minmax", "learned", "meanstd", "mse")
#: Ranges that are symmetric about 0: their rows need no offset.
SYMMETRIC_RANGES = ("symmetric", "mse")
ESTIMATORS = ("ste", "lsq", "noise")
WIDTH_GRADIENTS = ("levels", "interpolated")
ROW_SCALES = ("float16", "log8", "group")
#: Recipes that train widths by their gradient.
TRAINED_WIDTHS = ("paper", "learned")
DISTILLATIONS = ("listwise", "ranking", "margin", "mse")
LOSSES = ("bpr", "softmax")
INTERVALS = ("row", "message_passing")
GRADIENTS = ("ste", "relation")
MAX_SUPPORTED_BITS = 8
