r"""Pure tensor functions: every formula of the package, once.

Nothing here knows a module, a file or a configuration.
"""

from pyg_nodequant.functional.allocation import (
    GAUSSIAN_DISTORTION,
    allocate_bits,
    listwise_curvature,
    propagated_curvature,
    sensitivity,
    shuffled,
)
from pyg_nodequant.functional.axis_widths import (
    axis_widths,
    fill_score,
    interpolate_axes,
    share_profile,
)
from pyg_nodequant.functional.bitwidth import (
    bit_width,
    bit_width_slope,
    budget_total,
    degree_score,
    inverse_bit_width,
    project_to_budget,
    round_bits,
)
from pyg_nodequant.functional.blend import (
    blend_rows,
    discount_popularity,
    score_spread,
)
from pyg_nodequant.functional.cold import popularity_row, settle_cold_rows
from pyg_nodequant.functional.distillation import (
    distillation_loss,
    listwise_kl_loss,
    margin_distillation_loss,
    ranking_distillation_loss,
    score_distillation_loss,
)
from pyg_nodequant.functional.dual_ascent import DualState, dual_ascent, price
from pyg_nodequant.functional.estimators import (
    lsq_factor,
    rounding_noise,
    scale_gradient,
)
from pyg_nodequant.functional.interpolate import (
    interpolate_quantize,
    neighbour_bits,
)
from pyg_nodequant.functional.interval import mix_scale, neighbour_log_scale
from pyg_nodequant.functional.item_sample import sample_items, with_others
from pyg_nodequant.functional.losses import bpr_loss, l2_loss
from pyg_nodequant.functional.pairs import pairs_between
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
    safe_sqrt,
    snap_float16,
    stored_step,
    symmetric_range,
)
from pyg_nodequant.functional.ranges import (
    SPAN_FACTORS,
    meanstd_range,
    mse_factor,
    mse_range,
)
from pyg_nodequant.functional.rate_distortion import (
    directional_curvature,
    distortion_bound,
    quadratic_distortion,
    reverse_water_filling,
)
from pyg_nodequant.functional.relation import (
    relation_gradient,
    relation_term,
    rounding_residual,
)
from pyg_nodequant.functional.score_distortion import (
    ScoreDistortion,
    score_distortion,
)
from pyg_nodequant.functional.shared_scale import degree_bins, shared_step
from pyg_nodequant.functional.softmax import cosine_rows, softmax_loss
from pyg_nodequant.functional.storage import storage_loss
from pyg_nodequant.functional.transform import (
    allocate_levels,
    byte_profiles,
    column_spread,
    gaussian_steps,
    log_grid,
    principal_axes,
    principal_maps,
    profile_distortion,
    quantize_axes,
    quantizing_rotation,
    row_scale,
    snap_log_scale,
)

__all__ = [
    "GAUSSIAN_DISTORTION",
    "SPAN_FACTORS",
    "Adjacency",
    "DualState",
    "ScoreDistortion",
    "allocate_bits",
    "allocate_levels",
    "axis_widths",
    "bit_width",
    "bit_width_slope",
    "blend_rows",
    "bpr_loss",
    "budget_total",
    "build_adjacency",
    "byte_profiles",
    "column",
    "column_spread",
    "cosine_rows",
    "csr_from_coo",
    "degree_bins",
    "degree_score",
    "dequantize",
    "directional_curvature",
    "discount_popularity",
    "distillation_loss",
    "distortion_bound",
    "dual_ascent",
    "fake_quantize",
    "fill_score",
    "gather_rows",
    "gaussian_span",
    "gaussian_steps",
    "interpolate_axes",
    "interpolate_quantize",
    "inverse_bit_width",
    "l2_loss",
    "listwise_curvature",
    "listwise_kl_loss",
    "log_grid",
    "lsq_factor",
    "margin_distillation_loss",
    "meanstd_range",
    "minmax_range",
    "mix_scale",
    "mse_factor",
    "mse_range",
    "neighbour_bits",
    "neighbour_log_scale",
    "num_levels",
    "pairs_between",
    "popularity_row",
    "price",
    "principal_axes",
    "principal_maps",
    "profile_distortion",
    "project_to_budget",
    "propagate",
    "propagated_curvature",
    "quadratic_distortion",
    "quantize",
    "quantize_axes",
    "quantizing_rotation",
    "ranking_distillation_loss",
    "relation_gradient",
    "relation_term",
    "reverse_water_filling",
    "round_bits",
    "rounding_noise",
    "rounding_residual",
    "row_scale",
    "safe_sqrt",
    "sample_items",
    "scale_gradient",
    "score_distillation_loss",
    "score_distortion",
    "score_spread",
    "sensitivity",
    "settle_cold_rows",
    "share_profile",
    "shared_step",
    "shuffled",
    "snap_float16",
    "snap_log_scale",
    "softmax_loss",
    "storage_loss",
    "stored_step",
    "symmetric_range",
    "with_others",
]
