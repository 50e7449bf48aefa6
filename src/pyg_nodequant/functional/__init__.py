r"""Pure tensor functions: every formula of the package, once.

Nothing here knows a module, a file or a configuration.
"""

from pyg_nodequant.functional.allocation import (
    allocate_bits,
    listwise_curvature,
    propagated_curvature,
    sensitivity,
)
from pyg_nodequant.functional.bitwidth import (
    bit_width,
    budget_total,
    degree_score,
    inverse_bit_width,
    project_to_budget,
    round_bits,
)
from pyg_nodequant.functional.losses import (
    bpr_loss,
    distillation_loss,
    l2_loss,
    listwise_kl_loss,
)
from pyg_nodequant.functional.propagate import (
    Adjacency,
    build_adjacency,
    csr_from_coo,
    gather_rows,
    propagate,
)
from pyg_nodequant.functional.quantize import (
    column,
    dequantize,
    fake_quantize,
    gaussian_span,
    minmax_range,
    num_levels,
    quantize,
    snap_float16,
    stored_step,
    symmetric_range,
)
from pyg_nodequant.functional.storage import storage_loss

__all__ = [
    "Adjacency",
    "allocate_bits",
    "bit_width",
    "bpr_loss",
    "budget_total",
    "build_adjacency",
    "column",
    "csr_from_coo",
    "degree_score",
    "dequantize",
    "distillation_loss",
    "fake_quantize",
    "gather_rows",
    "gaussian_span",
    "inverse_bit_width",
    "l2_loss",
    "listwise_curvature",
    "listwise_kl_loss",
    "minmax_range",
    "num_levels",
    "project_to_budget",
    "propagate",
    "propagated_curvature",
    "quantize",
    "round_bits",
    "sensitivity",
    "snap_float16",
    "storage_loss",
    "stored_step",
    "symmetric_range",
]
