r"""Node-aware quantization for the embeddings of any PyG model, in place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple, Optional

import torch
from torch_geometric.nn import LightGCN, MetaPath2Vec, Node2Vec

from pyg_nodequant.config import NodeQuantConfig
from pyg_nodequant.nn import (
    BitWidthController,
    NodeAwareQuantEmbedding,
    NodeAwareQuantWeight,
    PackedEmbedding,
    QuantLightGCN,
)

Module = torch.nn.Module
FilterFn = Callable[[Module, str], bool]

# Models of PyG that read `embedding.weight` beside calling the embedding.
_READ_WEIGHT = (Node2Vec, MetaPath2Vec)


class Replaced(NamedTuple):
    r"""An embedding that was replaced: its name in the model, its shape."""

    name: str
    num_embeddings: int
    embedding_dim: int


@dataclass
class _Place:
    # A module that may hang in several places of a model.
    name: str
    module: Module
    parents: list[tuple[Module, str]] = field(default_factory=list)

    def put(self, module: Module) -> None:
        for parent, name in self.parents:
            setattr(parent, name, module)

    def report(self) -> Replaced:
        rows, dim = self.module.num_embeddings, self.module.embedding_dim
        return Replaced(self.name, int(rows), int(dim))  # type: ignore


def quantize_(
    model: Module,
    config: Optional[NodeQuantConfig] = None,
    filter_fn: Optional[FilterFn] = None,
    *,
    weight_access: bool = False,
) -> list[Replaced]:
    r"""Gives the embeddings of a model node-aware precision, in place.

    * Each :class:`torch.nn.Embedding` (of exactly this class) becomes a
      :class:`~pyg_nodequant.NodeAwareQuantEmbedding` with the same
      :obj:`weight` parameter.
    * A :class:`~torch_geometric.nn.LightGCN`, which reads
      :obj:`embedding.weight` instead of calling its embedding, becomes a
      :class:`~pyg_nodequant.QuantLightGCN`: still the same object, with the
      same parameters and layers.
    * Where :obj:`embedding.weight` is read otherwise, that read has to be
      quantized (:class:`~pyg_nodequant.nn.NodeAwareQuantWeight`). This is
      known of :class:`~torch_geometric.nn.Node2Vec` and
      :class:`~torch_geometric.nn.MetaPath2Vec`; say it of your own models
      with :obj:`weight_access=True`.

    .. note::
        Call this before the optimizer is built, or add the new parameters to
        it: the widths are trained too. They start in the middle of
        :obj:`config`'s bounds (fixed at :obj:`config.bits` for
        :obj:`recipe="uniform"`); budgets and schedules are the
        :class:`~pyg_nodequant.Trainer`'s.

    .. warning::
        A model of your own that reads :obj:`embedding.weight` trains and
        serves floats unless :obj:`weight_access` is set.

    Args:
        model (torch.nn.Module): The model.
        config (NodeQuantConfig, optional): Uses its :obj:`max_bits`,
            :obj:`min_bits`, :obj:`range`, :obj:`estimator`,
            :obj:`width_gradient` and, for LightGCN, :obj:`where`; a LightGCN
            with other row scales is made as
            :class:`~pyg_nodequant.QuantLightGCN`.
            (default: :class:`~pyg_nodequant.NodeQuantConfig()`)
        filter_fn (callable, optional): Given an embedding and its name,
            returns whether it is to be quantized. A LightGCN goes with its
            embedding. (default: :obj:`None`, all)
        weight_access (bool, optional): Whether the model reads
            :obj:`embedding.weight` of the selected embeddings.
            (default: :obj:`False`)

    Returns:
        What was replaced: names and shapes.

    Raises:
        ValueError: If there is nothing to quantize, or it cannot be done in
            place; the model is left as it was.

    Example:
        >>> model = torch.nn.ModuleDict({"user": torch.nn.Embedding(4, 2)})
        >>> quantize_(model, NodeQuantConfig(max_bits=4))
        [Replaced(name='user', num_embeddings=4, embedding_dim=2)]
        >>> model["user"]
        NodeAwareQuantEmbedding(4, 2, bits=1..4, avg=2.00)
    """
    config = config or NodeQuantConfig()
    if config.recipe == "float":
        raise ValueError("'quant.recipe' needs to be one of node_aware, "
                         "paper, uniform to quantize a model (got 'float')")
    if config.row_scale != "float16":
        raise ValueError(f"'quant.row_scale' needs to be float16 to quantize "
                         f"a model in place (got '{config.row_scale}')")
    places = [
        place for place in _places(model, _is_float_embedding)
        if filter_fn is None or filter_fn(place.module, place.name)
    ]
    if not places:
        raise ValueError("'model' needs to hold a torch.nn.Embedding that "
                         "'filter_fn' selects (got none)")
    for place in places:  # before anything is changed
        _check_place(place, weight_access)
        _check_graph(place, config)
    for place in places:
        _quantize_place(place, config, weight_access)
    return [place.report() for place in places]


def convert_(model: Module) -> list[Replaced]:
    r"""Replaces every quantized embedding of a model by a
    :class:`~pyg_nodequant.PackedEmbedding`, in place, for inference.

    What :func:`quantize_` or you put there is packed as it is served: with
    whole widths, scales in float16. Models that read :obj:`embedding.weight`
    go on doing so; each read unpacks the table.

    Args:
        model (torch.nn.Module): The model.

    Returns:
        What was replaced: names and shapes.

    Raises:
        ValueError: If there is nothing to convert, a row does not fit its
            stored precision, or the model holds a
            :class:`~pyg_nodequant.QuantLightGCN` that quantizes propagated
            rows, which only exist together with a graph; the model is left
            as it was.

    Example:
        >>> model = torch.nn.Sequential(NodeAwareQuantEmbedding(4, 2))
        >>> convert_(model)
        [Replaced(name='0', num_embeddings=4, embedding_dim=2)]
        >>> model[0]
        PackedEmbedding(4, 2, bits=4..4, avg=4.00)
    """
    for name, module in model.named_modules():
        if isinstance(module, QuantLightGCN):
            _check_input_only(name, module)
    places = _places(model, _is_quantized)
    if not places:
        raise ValueError("'model' needs to hold a NodeAwareQuantEmbedding "
                         "(got none)")
    packed = [_pack(place) for place in places]
    for place, embedding in zip(places, packed, strict=True):
        place.put(embedding)
    return [place.report() for place in places]


def _places(model: Module, wanted: Callable[[Module], bool]) -> list[_Place]:
    found: dict[Module, _Place] = {}
    if wanted(model):
        found[model] = _Place("", model)
    for prefix, parent in model.named_modules():
        for name, child in parent._modules.items():
            if child is not None and wanted(child):
                full = f"{prefix}.{name}" if prefix else name
                place = found.setdefault(child, _Place(full, child))
                place.parents.append((parent, name))
    return list(found.values())


def _is_float_embedding(module: Module) -> bool:
    return type(module) is torch.nn.Embedding


def _is_quantized(module: Module) -> bool:
    return (isinstance(module, NodeAwareQuantEmbedding)
            or NodeAwareQuantWeight.of(module) is not None)


def _reads_weight(place: _Place, weight_access: bool) -> bool:
    return weight_access or any(
        isinstance(parent, _READ_WEIGHT) for parent, _ in place.parents)


def _light_gcns(place: _Place) -> list[LightGCN]:
    return [parent for parent, name in place.parents
            if isinstance(parent, LightGCN) and name == "embedding"]


def _check_place(place: _Place, weight_access: bool) -> None:
    models = _light_gcns(place)
    if any(type(model) is LightGCN for model in models):
        return
    if models and not weight_access:
        raise ValueError(
            f"'{place.name}' is read by a {type(models[0]).__name__}, a "
            f"subclass of LightGCN: derive it from QuantLightGCN, or pass "
            f"weight_access=True to quantize its layer-0 table")
    if _reads_weight(place, weight_access):
        assert isinstance(place.module, torch.nn.Embedding)
        try:
            NodeAwareQuantWeight.check(place.module)
        except ValueError as error:
            raise ValueError(
                f"'{place.name}' cannot be quantized: {error}") from None
    elif not place.parents:
        raise ValueError("'model' is itself an embedding, which has no place "
                         "to be replaced in: use "
                         "NodeAwareQuantEmbedding.from_embedding")


def _check_graph(place: _Place, config: NodeQuantConfig) -> None:
    known = any(type(model) is LightGCN for model in _light_gcns(place))
    if config.uses_graph and not known:
        raise ValueError(f"'quant.interval' and 'quant.gradient' need to be "
                         f"row and ste for '{place.name}', which no LightGCN "
                         f"reads: its graph is not known "
                         f"(got {config.interval} and {config.gradient})")


def _quantize_place(
    place: _Place,
    config: NodeQuantConfig,
    weight_access: bool,
) -> None:
    embedding = place.module
    assert isinstance(embedding, torch.nn.Embedding)
    min_bits, max_bits = config.width_bounds
    options: dict[str, Any] = {
        "max_bits": max_bits,
        "min_bits": min_bits,
        "range": config.range,
        "estimator": config.estimator,
        "width_gradient": config.width_gradient,
    }
    controllers: list[BitWidthController] = []
    models = [model for model in _light_gcns(place) if type(model) is LightGCN]
    if models:
        for model in models:
            QuantLightGCN.quantize_(model, config)
            controllers.append(model.embedding.controller)
        others = [(parent, name) for parent, name in place.parents
                  if parent not in models]
        _Place(place.name, embedding, others).put(models[0].embedding)
    elif _reads_weight(place, weight_access):
        NodeAwareQuantWeight.register_(embedding, **options)
        weight = NodeAwareQuantWeight.of(embedding)
        assert weight is not None
        controllers.append(weight.controller)
    else:
        new = NodeAwareQuantEmbedding.from_embedding(embedding, **options)
        place.put(new)
        controllers.append(new.controller)
    if config.recipe == "uniform":
        for controller in controllers:
            bits = torch.full((controller.num_nodes, ), config.bits)
            controller.set_bits(bits)
            controller.freeze(bits)


def _check_input_only(name: str, model: QuantLightGCN) -> None:
    what = f"'{name}'" if name else "'model'"
    if not model.quantization_enabled:
        raise ValueError(f"{what} is a QuantLightGCN whose quantization is "
                         f"turned off: there is nothing to pack")
    if model.quant.where != "input":
        raise ValueError(
            f"{what} is a QuantLightGCN with where='{model.quant.where}': "
            f"what it serves are propagated rows, which need the graph. Pack "
            f"it with pyg_nodequant.training.packing.pack_model")


def _pack(place: _Place) -> PackedEmbedding:
    if not place.parents:
        raise ValueError("'model' is itself an embedding, which has no place "
                         "to be replaced in: use "
                         "PackedEmbedding.from_quantized")
    module = place.module
    try:
        if isinstance(module, NodeAwareQuantEmbedding):
            return PackedEmbedding.from_quantized(module)
        weight = NodeAwareQuantWeight.of(module)
        assert weight is not None and isinstance(module, torch.nn.Embedding)
        latent = module.parametrizations["weight"].original  # type: ignore
        return PackedEmbedding.from_quantizer(weight.quantizer, latent,
                                              weight.padding_idx)
    except ValueError as error:
        raise ValueError(f"'{place.name}' cannot be packed: {error}") from None
