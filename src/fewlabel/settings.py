"""Reading settings files, and saying plainly what is wrong with them."""

import ast
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from inspect import cleandoc, getsource
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fewlabel.errors import ConfigError


class Settings(BaseModel):
    """Base of every settings model: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults_of_parts(cls, found: Any) -> Any:
        """A part that is given in part keeps this model's defaults for the rest of it."""
        if not isinstance(found, dict):
            return found
        filled = dict(found)
        for name, field in cls.model_fields.items():
            default = field.get_default(call_default_factory=True, validated_data={})
            if isinstance(default, Settings) and isinstance(found.get(name), dict):
                filled[name] = _merged(default.model_dump(exclude_unset=True), found[name])
        return filled


S = TypeVar("S", bound=Settings)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {k: _merged(base[k], v) for k, v in over.items() if _is_part(base.get(k), v)}
    return base | over | both


def _is_part(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def read_settings(path: Path, model: type[S], changes: Sequence[str] = ()) -> S:
    """Read a YAML file into a settings model.

    Args:
        path: The file.
        model: What it must hold.
        changes: Such as "optimizer.learning_rate=3e-4"; they win over the file.

    Raises:
        ConfigError: If the file is no YAML mapping, or naming every key that is unknown or
            has a value out of range.
    """
    return check_settings(changed(read_mapping(path), changes), model, path.name)


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        ConfigError: If it cannot be read or is not a mapping.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise ConfigError(
            f"Cannot read the settings {path}: {problem}.",
            fix="check the path, and that the file is YAML: one `key: value` per line.",
        ) from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(
            f"{path.name} holds {type(found).__name__}; settings are `key: value` lines.",
            fix="start from one of the files in `configs/`.",
        )
    return found


def changed(found: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Settings with some values replaced.

    >>> changed({"net": {"channels": 8}}, ["net.channels=16", "seed=3"])
    {'net': {'channels': 16}, 'seed': 3}

    Args:
        found: As read; not altered.
        changes: "key=value" or "part.key=value"; the value is read as YAML.

    Raises:
        ConfigError: If a change is not written that way.
    """
    result = dict(found)
    for change in changes:
        key, equals, text = change.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(
                f"Cannot read the change {change!r}.",
                fix="write `--set key=value` or `--set part.key=value`.",
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        result = _with(result, parts, value)
    return result


def _with(found: dict[str, Any], parts: list[str], value: Any) -> dict[str, Any]:
    if len(parts) == 1:
        return {**found, parts[0]: value}
    inner = found.get(parts[0])
    inner = inner if isinstance(inner, dict) else {}
    return {**found, parts[0]: _with(inner, parts[1:], value)}


def check_settings(found: dict[str, Any], model: type[S], where: str) -> S:
    """Settings from what a file says.

    Args:
        found: Keys and values.
        model: What they must fit.
        where: Name of the file, for the message.

    Raises:
        ConfigError: Naming every key that is unknown, missing or has a value out of range.
    """
    try:
        return model.model_validate(found)
    except ValidationError as invalid:
        problems = list(_explain(invalid, model))
    whats = [what for what, _ in problems]
    fixes = dict.fromkeys(fix for _, fix in problems)
    if len(problems) == 1:
        raise ConfigError(f"{where}: {whats[0]}.", fix=f"{next(iter(fixes))}.")
    lines = "".join(f"\n  - {what}." for what in whats)
    raise ConfigError(f"{where} has {len(problems)} mistakes:{lines}", fix=f"{'; '.join(fixes)}.")


def _explain(invalid: ValidationError, model: type[Settings]) -> Iterator[tuple[str, str]]:
    """What is wrong and what to do, for each problem."""
    for problem in invalid.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield f"there is no setting {key!r}", _nearest(problem["loc"], model)
        elif problem["type"] == "missing":
            yield f"the setting {key!r} is missing", f"add a line for {key!r}"
        else:
            message = problem["msg"].removeprefix("Value error, ").rstrip(".")
            yield (
                f"{key or 'the whole'} is {problem['input']!r}. {message}",
                _meaning(problem["loc"], model),
            )


def _nearest(place: tuple[int | str, ...], model: type[Settings]) -> str:
    names = list(_owner(place, model).model_fields)
    near = get_close_matches(str(place[-1]), names, n=1)
    before = "".join(f"{part}." for part in place[:-1])
    return f"write {before + near[0]!r}" if near else f"use one of {', '.join(names)}"


def _meaning(place: tuple[int | str, ...], model: type[Settings]) -> str:
    """What a setting means and its default, as far as the model tells."""
    owner = _owner(place, model)
    name = next((part for part in reversed(place) if part in owner.model_fields), None)
    if not isinstance(name, str):
        return "give a value that fits"
    field = owner.model_fields[name]
    default = "" if field.is_required() else f" (default {field.get_default()!r})"
    meaning = " ".join(_docstrings(owner).get(name, "a value that fits").rstrip(".").split())
    return f"{name}{default} means: {meaning}"


def _docstrings(model: type[Settings]) -> dict[str, str]:
    """What stands below each setting; read when it is asked for, as pydantic would at import."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__[: model.__mro__.index(Settings)]):
        try:
            (whole,) = ast.parse(dedent(getsource(one))).body
        except OSError:
            continue  # made while running: it has no source, and only inherits
        assert isinstance(whole, ast.ClassDef)
        for above, below in pairwise(whole.body):
            match above, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = cleandoc(text)
    return found


def _owner(place: tuple[int | str, ...], model: type[Settings]) -> type[Settings]:
    """The model that the last part of a place belongs to."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        model = next(_models_in(field.annotation), model) if field else model
    return model


def _models_in(annotation: Any) -> Iterator[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
