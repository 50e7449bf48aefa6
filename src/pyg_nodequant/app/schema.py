r"""Between Hydra and the frozen settings of :mod:`pyg_nodequant.config`.

OmegaConf can only override fields of dataclasses that are not frozen, so the
schema is made of unfrozen twins: same names, types and defaults, no checks.
They are derived rather than written out, so each field is declared once.
"""

from __future__ import annotations

from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from typing import Any, TypeVar, cast, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from pyg_nodequant.config import ExperimentConfig

T = TypeVar("T")


def unfrozen(cls: type) -> type:
    r"""Returns a dataclass with the fields of :obj:`cls` that can be set.

    Example:
        >>> from pyg_nodequant.config import ModelConfig
        >>> twin = unfrozen(ModelConfig)()
        >>> twin.embedding_dim = -1  # no checks until it is frozen
    """
    hints = get_type_hints(cls)
    specs: list[tuple[str, Any, Any]] = []
    for item in fields(cls):
        hint = hints[item.name]
        if is_dataclass(hint):
            twin = unfrozen(hint)  # type: ignore[arg-type]
            specs.append((item.name, twin, field(default_factory=twin)))
        elif item.default is not MISSING:
            specs.append((item.name, hint, field(default=item.default)))
        else:
            raise TypeError(f"'{cls.__name__}.{item.name}' needs a default")
    return make_dataclass(f"{cls.__name__}Schema", specs)


def freeze(cls: type[T], values: dict[str, Any], prefix: str = "") -> T:
    r"""Makes the frozen, checked dataclass :obj:`cls` from plain values.

    Args:
        cls (type): A dataclass of :mod:`pyg_nodequant.config`.
        values (dict): Nested dictionaries, as many fields as are known.
        prefix (str): What to put before a name in an error.

    Raises:
        ValueError: If a name is unknown or a value is not allowed.

    Example:
        >>> from pyg_nodequant.config import ModelConfig
        >>> freeze(ModelConfig, {"num_layers": 2}).num_layers
        2
    """
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"unknown option '{prefix}{name}' (it needs to "
                             f"be one of {', '.join(hints)})")
        if is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise ValueError(f"'{prefix}{name}' needs to be a group of "
                                 f"options (got {value!r})")
            value = freeze(hints[name], value, f"{prefix}{name}.")
        arguments[name] = value
    return cls(**arguments)


def to_experiment(config: DictConfig) -> ExperimentConfig:
    r"""Returns the frozen settings of a composed configuration.

    Raises:
        ValueError: If a value is not allowed.
    """
    names = [str(name) for name in config if name != "hydra"]
    ours = OmegaConf.masked_copy(config, names)
    values = OmegaConf.to_container(ours, resolve=True)
    return freeze(ExperimentConfig, cast(dict[str, Any], values))


def register() -> None:
    r"""Makes the schema known to Hydra as :obj:`base_config`."""
    ConfigStore.instance().store("base_config", unfrozen(ExperimentConfig))
