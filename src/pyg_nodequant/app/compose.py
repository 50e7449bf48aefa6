r"""Composes the configuration, and tells in one line why it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Optional

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
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
        config_name (str, optional): The primary file.

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
    overrides = list(overrides)
    if config_dir is not None:
        folder = check_config_dir(config_dir)
        text = str(folder).replace("\\", "\\\\").replace("'", "\\'")
        overrides.append(f"hydra.searchpath=['file://{text}']")
    with readable_errors(), initialize_config_module(
            CONFIG_MODULE, version_base=VERSION_BASE):
        return compose(config_name, overrides, return_hydra_config=True)


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
            if override.is_discrete_sweep():
                key = override.get_key_element()
                choices = [
                    f"{key}={value}"
                    for value in override.sweep_string_iterator()
                ]
            jobs = [[*job, choice] for job in jobs for choice in choices]
    return jobs


@contextmanager
def readable_errors() -> Iterator[None]:
    r"""Turns errors of Hydra, OmegaConf and YAML into :class:`ConfigError`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    except YAMLError as error:
        raise ConfigError(f"a YAML file cannot be read: {error}") from error


def explain(error: BaseException) -> str:
    r"""Returns one line for an error of Hydra or OmegaConf."""
    cause = error.__cause__
    if isinstance(error, HydraException) and isinstance(
            cause, OmegaConfBaseException):
        return explain(cause)
    text = str(error)
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
        if "is not Optional" in text:
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
