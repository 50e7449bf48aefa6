r"""Composes the configuration, and tells in one line why it cannot."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Optional

from hydra import (
    compose,
    initialize_config_dir,
    initialize_config_module,
)
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import (
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import YAMLError

from pyg_nodequant.app.schema import register
from pyg_nodequant.config import ExperimentConfig

CONFIG_MODULE = "pyg_nodequant.conf"
VERSION_BASE = "1.3"
# What -m can run: lists and ranges, all known before the first job.
SWEEPS = (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP,
          ValueType.RANGE_SWEEP)
KINDS = {
    "Integer": "an integer",
    "Float": "a number",
    "bool": "true or false",
    "string": "text",
}


class ConfigError(ValueError):
    r"""A configuration that cannot be composed."""


def compose_config(
    overrides: Sequence[str],
    config_dir: Optional[str] = None,
    config_name: str = "config",
) -> DictConfig:
    r"""Composes :obj:`conf/` with overrides as on the command line.

    Args:
        overrides (list): Such as :obj:`["data=csv", "seed=1"]`.
        config_dir (str, optional): A folder of further YAML files.
        config_name (str, optional): The primary file, of :obj:`conf/` or, if
            it is not there, of :obj:`config_dir`.

    Raises:
        ConfigError: If an option is unknown or has the wrong type.

    Example:
        >>> compose_config(["quant=uniform", "quant.bits=4"]).quant.bits
        4
        >>> compose_config(["quant.bit=4"])
        Traceback (most recent call last):
            ...
        pyg_nodequant.app.compose.ConfigError: unknown option 'quant.bit'...
    """
    register()
    overrides, name = list(overrides), config_name.removesuffix(".yaml")
    initialize: Callable[..., AbstractContextManager[None]]
    initialize, home = initialize_config_module, CONFIG_MODULE
    if config_dir is not None:
        folder = check_config_dir(config_dir)
        other = f"file://{folder}"
        if name != "config" and (folder / f"{name}.yaml").is_file():
            # Hydra looks for the primary file in the first place only.
            initialize, home = initialize_config_dir, str(folder)
            other = f"pkg://{CONFIG_MODULE}"
        text = other.replace("\\", "\\\\").replace("'", "\\'")
        overrides.append(f"hydra.searchpath=['{text}']")
    with readable_errors(), initialize(home, version_base=VERSION_BASE):
        return compose(name, overrides, return_hydra_config=True)


def check_config_dir(config_dir: str) -> Path:
    r"""Returns the absolute path of an existing folder."""
    folder = Path(config_dir).resolve()
    if not folder.is_dir():
        raise ConfigError(f"'--config-dir' needs to be an existing folder "
                          f"(got '{config_dir}')")
    return folder


def sweep_jobs(overrides: Sequence[str]) -> list[list[str]]:
    r"""Returns the overrides of every job of a sweep.

    Example:
        >>> sweep_jobs(["seed=0,1", "quant=paper"])
        [['seed=0', 'quant=paper'], ['seed=1', 'quant=paper']]
    """
    jobs: list[list[str]] = [[]]
    with readable_errors():
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for override in parsed:
            choices = [str(override.input_line)]
            if override.is_sweep_override():
                if override.value_type not in SWEEPS:
                    raise ConfigError(
                        f"a sweep needs a list of values, key=1,2,3, or "
                        f"key=range(1,4) (got '{override.input_line}')")
                key = override.get_key_element()
                choices = [
                    f"{key}={value}"
                    for value in override.sweep_string_iterator()
                ]
                if not choices:
                    raise ConfigError(f"a sweep needs at least one value "
                                      f"(got '{override.input_line}')")
            jobs = [[*job, choice] for job in jobs for choice in choices]
    return jobs


@contextmanager
def readable_errors() -> Iterator[None]:
    r"""Turns errors of Hydra, OmegaConf and YAML into :class:`ConfigError`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"a YAML file cannot be read: {error}") from error


def explain(error: BaseException) -> str:
    r"""Returns one line for an error of Hydra or OmegaConf."""
    cause = error.__cause__ or error.__context__
    text = str(error)
    if isinstance(error, HydraException) and isinstance(
            cause, OmegaConfBaseException):
        where = re.match(r"In ('.*?'): ", text)  # a YAML file
        return explain(cause) + (f" (in {where[1]})" if where else "")
    key = str(getattr(error, "full_key", "") or "")
    if isinstance(error, MissingConfigException):
        return explain_missing_file(error)
    if isinstance(error, OverrideParseException):
        return (f"cannot read '{error.override}': options are written "
                f"key=value, and a value with special characters is quoted "
                f"twice, as in data.path=\"'a=b.csv'\"")
    if text.startswith("Ambiguous value"):
        override = text.split("'")[1]
        return (f"'{override}' gives several values: add -m to run one job "
                f"for each")
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)):
        return unknown_option(key)
    if isinstance(error, InterpolationResolutionError):
        reason = text.splitlines()[0].rpartition(": ")[2].strip('"')
        return f"'{key}' cannot be resolved: {reason}"
    if isinstance(error, ValidationError):
        wanted = re.search(r"(?:converted to|a valid) (\w+)", text)
        if wanted and wanted[1] in KINDS:
            value = re.match(r"Value '(.*?)' (of type|is not)", text, re.S)
            got = f" (got '{value[1]}')" if value else ""
            return f"'{key}' needs to be {KINDS[wanted[1]]}{got}"
        listed = re.match(r"Cannot convert '\w+' to (\w+): (.*)", text)
        if listed and listed[1] in KINDS:
            return f"'{key}' needs to be {KINDS[listed[1]]} (got {listed[2]})"
        if "is not Optional" in text or "value 'None'" in text:
            return f"'{key}' needs a value (got null)"
    return text.splitlines()[0] + (f" ('{key}')" if key else "")


def explain_missing_file(error: MissingConfigException) -> str:
    r"""Returns the line for `group=option` without such an option."""
    missing = error.missing_cfg_file or ""
    group, _, option = missing.rpartition("/")
    if group and error.options:
        return (f"'{group}' needs to be one of {', '.join(error.options)} "
                f"(got '{option}')")
    return str(error).splitlines()[0]


def unknown_option(key: str) -> str:
    r"""Returns the line for an option that does not exist, with the ones
    that do.

    Example:
        >>> unknown_option("sed").startswith(
        ...     "unknown option 'sed', did you mean 'seed'? (")
        True
    """
    if key == "experiment":  # reached only by what is in such a file
        return ("a file of experiment/ needs '# @package _global_' as its "
                "first line")
    known = dict(option_names(ExperimentConfig()))
    group, _, name = key.rpartition(".")
    siblings = [k for k in known if k.rpartition(".")[0] == group]
    # The name may be right and its group forgotten: lambda_storage=1e-3.
    same = [k for k in known if k.rpartition(".")[2] == name]
    near = [k for k in get_close_matches(key, known, 3, 0.8) if k != group]
    guess = (same or near)[:1]
    hint = f", did you mean '{guess[0]}'?" if guess else ""
    names = ", ".join(k.rpartition(".")[2] for k in siblings)
    if not group:
        names += ", experiment"
    where = f"'{group}' has" if group else "there are"
    return f"unknown option '{key}'{hint}" + (f" ({where} {names})"
                                              if siblings else "")


def option_names(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    r"""Yields the full name and the value of every option and group."""
    for item in fields(config):
        value = getattr(config, item.name)
        yield prefix + item.name, value
        if is_dataclass(value):
            yield from option_names(value, f"{prefix}{item.name}.")
