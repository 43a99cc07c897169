"""How data were made: what names a run's data where their last bits depend on the machine.

A resized, truncated or noisy image differs in the last bits between processors, so a hash of its values would name one run
differently on each of them. Functions that make data are marked with :func:`makes`; what they return knows its recipe, made of
names, numbers and the checksum of the file at the start. Data without a recipe are named by the checksum of their values.
"""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from torch import Tensor

_MAKERS: dict[str, Callable[..., Tensor]] = {}


def makes(name: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Mark a function whose result is determined by its arguments: numbers, strings and other data.

    Args:
        name: how recipes call it; it must outlive the function's place and name.

    >>> @makes("doubled")
    ... def double(values: Tensor) -> Tensor:
    ...     return 2 * values
    >>> of(double(Tensor([1.0, 2.0])))["make"]
    'doubled'
    """

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def made(*args, **kwargs) -> Tensor:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            result = function(*args, **kwargs)
            recipe = {"make": name} | {key: describe(value) for key, value in bound.arguments.items()}
            return result if _recipe(result) else attach(result, recipe)

        _MAKERS[name] = made
        return made

    return decorate


def attach(values: Tensor, recipe: dict[str, Any]) -> Tensor:
    """Tell a tensor how it was made; a later change in place makes it forget."""
    values._seplib_recipe = (values._version, recipe)
    return values


def _recipe(values: Tensor) -> dict[str, Any] | None:
    version, recipe = getattr(values, "_seplib_recipe", (None, None))
    return recipe if version == values._version else None


def of(values: Tensor | np.ndarray) -> dict[str, Any]:
    """Recipe of a tensor or array, or the checksum of its values with dtype and shape if nobody told it one.

    >>> of(np.zeros((2, 3)))["shape"]
    [2, 3]
    """
    if isinstance(values, Tensor):
        if recipe := _recipe(values):
            return recipe
        values = values.detach().cpu().numpy()
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return {"make": "values", "dtype": str(values.dtype), "shape": list(values.shape), "sha256": digest}


def describe(value: Any) -> Any:
    """What an argument is, in plain JSON: numbers and text as they are, data by their recipe.

    Raises:
        TypeError: neither data nor plain.

    >>> describe({"rank": 3, "sizes": (4, 5)})
    {'rank': 3, 'sizes': [4, 5]}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray):
        return of(value)
    if isinstance(value, dict):
        return {str(key): describe(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    raise TypeError(f"a run is described by numbers, text, lists, mappings and data, got {type(value).__name__}")


def choices(settings: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """Fields of a settings dataclass that describe a run: those that differ from their default, so that a new one changes no run.

    Args:
        settings: a dataclass instance.
        without: names of fields that do not enter the run.
    """
    found = {field.name: (getattr(settings, field.name), field.default) for field in dataclasses.fields(settings)}
    return {name: value for name, (value, default) in found.items() if name not in without and value != default}


def rebuild(description: Any) -> Any:
    """Arguments from their description, data made anew by their recipes.

    Raises:
        ValueError: data without a recipe, or made by nobody known.
    """
    if isinstance(description, list):
        return [rebuild(part) for part in description]
    if not isinstance(description, dict):
        return description
    if "make" not in description:
        return {key: rebuild(part) for key, part in description.items()}
    recipe = {key: part for key, part in description.items() if key != "make"}
    if description["make"] not in _MAKERS:
        known = ", ".join(sorted(_MAKERS))
        raise ValueError(f"data made by {description['make']!r} cannot be made again; known are {known}")
    return _MAKERS[description["make"]](**rebuild(recipe))
