"""What every part of a recipe has in common: frozen, strictly checked, mistakes told by name.

A recipe is one YAML file, a model of sections; `section.key=value` on the command line overrides
it. An unknown key is refused with the nearest known one.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from corpus.files import is_remote, read_bytes

Model = TypeVar("Model", bound=BaseModel)
# A key of the same section that is so alike is meant rather than the same key of another. Guess.
_CLOSE = 0.7


class Section(BaseModel):
    """A frozen part of the recipe that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _refuse_home(path: str, info: ValidationInfo) -> str:
    # Only of a file that is loaded: a snapshot that was made with such a path can still be opened.
    if info.context is not None and path.startswith("~"):
        raise ValueError(
            f"{path} begins with ~, which only a shell expands: write it out, or use $HOME on the "
            "command line"
        )
    return path


def _refuse_url(path: str, info: ValidationInfo) -> str:
    if info.context is not None and is_remote(path):
        raise ValueError(f"{path} is a URL, expected a local directory: you can copy it from there")
    return path


# A path or an fsspec URL, in a recipe that travels between machines and users.
Location = Annotated[str, Field(min_length=1), AfterValidator(_refuse_home)]
LocalDirectory = Annotated[Location, AfterValidator(_refuse_url)]


class _RecipeLoader(yaml.SafeLoader):
    """Plain YAML in which a label such as 2026-11-21 stays text, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a repeated key would silently hide the first one's value."""
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"key {key} twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_RecipeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_section(model: type[Model], path: str, overrides: Sequence[str] = ()) -> Model:
    """Read a YAML file, apply `section.key=value` overrides and check all of it."""
    try:
        raw = yaml.load(read_bytes(path), _RecipeLoader)
    except FileNotFoundError:
        raise ValueError(f"there is no recipe at {path}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds no mapping of recipe keys")
    for override in overrides:
        _apply_override(raw, override)
    # A section whose keys are all commented out reads as null.
    raw = {
        key: {} if value is None and _is_section(model, key) else value
        for key, value in raw.items()
    }
    try:
        return model.model_validate(raw, context=path)
    except ValidationError as error:
        raise ValueError(f"{path}: " + "; ".join(explain_all(model, error))) from None


def _is_section(model: type[BaseModel], key: str) -> bool:
    field = model.model_fields.get(key)
    annotation = field.annotation if field else None
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise ValueError(f"override {override!r} has no '=': write section.key=value")
    *parents, last = key.split(".")
    section = raw
    for depth, parent in enumerate(parents, 1):
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if isinstance(section, list):
            raise ValueError(
                f"override {override!r}: {parent} is a list, which is given whole, as JSON: "
                f"{'.'.join(parents[:depth])}=[...]"
            )
        if not isinstance(section, dict):
            raise ValueError(f"override {override!r}: {parent} is not a section of the recipe")
    try:
        section[last] = yaml.load(value, _RecipeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: the value is not YAML: {error}") from None


# What pydantic tells in Python's words.
_IN_YAML = {
    "tuple_type": "expected a list, as [a, b]",
    "dict_type": "expected keys with values, as {{a: 1}}",
    "model_type": "expected keys with values, as {{a: 1}}",
    "too_short": "expected a list of at least {min_length}",
}


def explain_all(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Explain each error of a model but those that only follow from one deeper inside."""
    details = error.errors()
    inside = {detail["loc"][:n] for detail in details for n in range(len(detail["loc"]))}
    return [_explain(model, detail) for detail in details if detail["loc"] not in inside]


def _explain(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, error["loc"][:-1])
        key = str(error["loc"][-1])
        near = difflib.get_close_matches(key, known, n=1, cutoff=_CLOSE)
        near = near or [path for path in _paths(model) if path.rpartition(".")[2] == key]
        near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        return f"unknown key {place}: did you mean {' or '.join(near)}?"
    if error["type"] == "missing":
        return f"{place} is missing"
    told = error["msg"].removeprefix("Value error, ")
    if error["type"] in _IN_YAML:
        told = _IN_YAML[error["type"]].format(**error.get("ctx", {}))
    message = f"{place}: {told}".removeprefix(": ")
    if error["type"] == "value_error":
        return message
    return f"{message}, found {error['input']!r}"


def _known_keys(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """List the keys of the section at a place; the number of an element of a list leads nowhere."""
    for part in location:
        if part in model.model_fields:
            model = _section_of(model.model_fields[part].annotation) or model
    return sorted(model.model_fields)


def _paths(model: type[BaseModel]) -> Iterator[str]:
    """Give every key with the sections it stands in: `pretrain.cache.max_bytes`."""
    for name, field in model.model_fields.items():
        yield name
        section = _section_of(field.annotation)
        yield from (f"{name}.{path}" for path in _paths(section)) if section else ()


def _section_of(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - any type there is
    """Find the section in an annotation: `Cache | None` and `tuple[Source, ...]` hold one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_of, get_args(annotation))), None)
