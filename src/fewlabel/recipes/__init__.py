"""One file per published method. To add one: write the file, add its line to `RECIPES`."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast, runtime_checkable

from pydantic import BeforeValidator, create_model

from fewlabel.cohort import Cohort
from fewlabel.errors import ConfigError
from fewlabel.settings import Settings, changed, check_settings, read_mapping
from fewlabel.train.stage import Export, Networks, Stage, Workplace

RECIPES: dict[str, str] = {
    "supervised": "fewlabel.recipes.supervised",
    "synthetic": "fewlabel.recipes.synthetic",
    "slice-fcn": "fewlabel.recipes.slice_fcn",
    "deep-atlas": "fewlabel.recipes.deep_atlas",
    "mo-net": "fewlabel.recipes.mo_net",
    "neonatal": "fewlabel.recipes.neonatal",
    "finetune": "fewlabel.recipes.finetune",
}
"""Name in YAML files to module; a module is imported when its name is asked for."""


@runtime_checkable
class Recipe(Protocol):
    """What every recipe module offers."""

    Config: type[Settings]
    """Everything the YAML says besides the header; defaults are the paper's."""

    def stages(self, config: Any, seed: int, work: Workplace) -> Iterator[Stage]:
        """The stages in order; what follows a `yield` runs once that stage is trained."""

    def cohort(self, config: Any, run: Path) -> Cohort:
        """The cases, split, with the scans that the network looks at; none without a cohort."""

    def exports(self, config: Any, networks: Networks) -> Export:
        """What a model folder is made of, from the networks of a trained stage."""


class Header(Settings):
    """The settings that every recipe has."""

    recipe: str
    """One of the names in `RECIPES`."""
    seed: int = 0
    """Decides all that is random."""
    precision: Annotated[Literal["32", "bf16"], BeforeValidator(str)] = "32"
    """Numbers that networks compute in; weights are always float32."""


@dataclass(frozen=True)
class Plan:
    """A settings file, understood.

    Attributes:
        header: Recipe, seed, precision.
        recipe: The recipe's module.
        config: The recipe's settings.
    """

    header: Header
    recipe: Recipe
    config: Settings

    def resolved(self) -> dict[str, Any]:
        """All settings with their values, defaults included, ready for YAML."""
        return self.header.model_dump(mode="json") | self.config.model_dump(mode="json")


def read_plan(path: Path, changes: tuple[str, ...] = ()) -> Plan:
    """Read a settings file.

    Args:
        path: YAML file with `recipe`, and whatever departs from that recipe's defaults.
        changes: Such as "optimizer.learning_rate=3e-4"; they win over the file.

    Raises:
        ConfigError: If the file cannot be read, the recipe is unknown, or naming every setting
            that is unknown or out of range.
    """
    found = changed(read_mapping(path), changes)
    if "recipe" not in found:
        raise ConfigError(
            f"{path.name} does not say which recipe to follow.",
            fix=f"add a line such as `recipe: {next(iter(RECIPES))}`; there are"
            f" {', '.join(RECIPES)}.",
        )
    recipe = find_recipe(str(found["recipe"]))
    whole = cast("type[Settings]", create_model("Whole", __base__=(Header, recipe.Config)))
    check_settings(found, whole, path.name)  # both halves at once, to name all mistakes
    own = {key: value for key, value in found.items() if key in Header.model_fields}
    rest = {key: value for key, value in found.items() if key not in Header.model_fields}
    return Plan(Header(**own), recipe, recipe.Config(**rest))


def find_recipe(name: str) -> Recipe:
    """The module of a recipe.

    Raises:
        ConfigError: If there is no recipe of that name.
    """
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        hint = f"write {near[0]!r}" if near else f"use one of {', '.join(RECIPES)}"
        raise ConfigError(f"There is no recipe {name!r}.", fix=f"{hint}.")
    return cast("Recipe", import_module(RECIPES[name]))
