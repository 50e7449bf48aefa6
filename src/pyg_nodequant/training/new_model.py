r"""Fresh models."""

from __future__ import annotations

import torch

from pyg_nodequant.config import ExperimentConfig
from pyg_nodequant.data import Interactions
from pyg_nodequant.nn import QuantLightGCN


def new_model(config: ExperimentConfig, data: Interactions) -> QuantLightGCN:
    r"""A freshly initialised model; the seed alone decides its values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return QuantLightGCN(data.num_nodes, config.model.embedding_dim,
                             config.model.num_layers, quant=config.quant,
                             degree=data.degree("train"),
                             num_users=data.num_users,
                             cosine_temperature=config.loss
                             .cosine_temperature)
