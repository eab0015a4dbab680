"""YAML files and `key=value` overrides -> the dataclasses of this folder: strict, each error one line with its key.

A value is read as its field's type asks, not as it looks: `seed: 010` is 10, and `style: 010` is "010". `${...}` is
filled in by OmegaConf in text that comes from a file or the command line, for paths such as
`output: ${oc.env:SCRATCH}/run`; never in prompts and other prose, nor in what a program passes as a dictionary.
"""

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from followyourpose.common.files import atomic_write, read_text
from followyourpose.hub.resolve import resolve

PROSE = {"prose": True}  # metadata of a field whose text may say anything: `${` has no meaning there
LARGEST = 100_000  # bytes of a config file
DEEPEST, MOST_VALUES = 30, 20_000  # levels and values of a config, aliases counted as often as they are used
_NULL = ("", "~", "null", "Null", "NULL")
_BOOLEANS = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
_MERGE = "tag:yaml.org,2002:merge"

Schema = TypeVar("Schema")


class ConfigError(ValueError):
    """A configuration that cannot be used; its message names the file and the key."""


class Written(str):
    """Text of a scalar in a YAML file or on the command line, in its source form."""


class Plain(Written):
    """The same without quotes: a number, a boolean or null where the field's type asks for one."""


class Argument(str):
    """Text behind the `=` of an override, whose form is the field's."""


def find_model(name: str | Path, key: str) -> Path:
    """Return the folder or file that a setting names by a name of the registry, a path or a hub id.

    Raises:
        ConfigError: none of the three leads anywhere; the message names the setting `key`.
    """
    try:
        return resolve(name, key)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def load_config(schema: type[Schema], path: str | Path, overrides: Sequence[str] = ()) -> Schema:
    """Read a YAML file into `schema`, with `key=value` overrides on top.

    Raises:
        ConfigError: the file is missing or no mapping; a key is unknown (its nearest neighbour is named) or there
            twice, a value has the wrong type or is out of range, or a key without a default is not set.
    """
    try:
        content = _parse(read_text(Path(path), LARGEST), str(path))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: got {_shown(content)} at the top, expected `key: value` lines")
    return build_config(schema, content, overrides, str(path))


def build_config(
    schema: type[Schema], content: Mapping[str, Any], overrides: Sequence[str] = (), name: str = "config"
) -> Schema:
    """Build a config from a dictionary, as `load_config` does from a file; `name` stands for the file in messages."""
    values = _mapping(schema, content, name, "")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not (key and equals):
            raise ConfigError(f"command line: got {override!r}, expected key=value")
        source = f"command line: {override}"
        layer: Any = Argument(text)
        for part in reversed(key.split(".")):
            layer = {part: layer}
        values = _merged(values, _mapping(schema, layer, source, ""))
    try:
        config = OmegaConf.merge(_structured(typing.cast(Any, schema)), OmegaConf.create(values))
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ConfigError(f"{name}: no value for {', '.join(missing)}")
        return typing.cast(Schema, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        full_key = getattr(error, "full_key", None)
        raise ConfigError(f"{name}: {f'{full_key}: ' if full_key else ''}{str(error).splitlines()[0]}") from error
    except ValueError as error:  # of the schemas' checks, which name the key
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


@cache
def _structured(schema: type) -> Any:
    """Return a schema as OmegaConf's; merging copies it."""
    return OmegaConf.structured(schema)


def save_config(config: Any, path: str | Path) -> None:
    """Write a configuration, every default included, as YAML (or JSON, where the name ends so)."""
    content = written(dataclasses.asdict(config), type(config))
    as_json = str(path).endswith(".json")
    text = json.dumps(content, indent=2) if as_json else yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    atomic_write(Path(path), text)


def written(settings: dict[str, Any], schema: type) -> dict[str, Any]:
    """Return settings as a file needs them for `load_config` to give the same again: `${` of paths is escaped."""
    fields = {field.name: field for field in dataclasses.fields(schema)}

    def literal(key: str, value: Any) -> Any:
        factory: Any = fields[key].default_factory
        if dataclasses.is_dataclass(factory):
            return written(value, typing.cast(type, factory))
        return value if fields[key].metadata.get("prose") else _literal(value)

    return {key: literal(key, value) for key, value in settings.items()}


def _literal(value: Any) -> Any:
    """Return a value in which OmegaConf finds no interpolation."""
    if isinstance(value, dict):
        return {key: _literal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_literal(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


# ---- YAML -> scalars in their source form ----------------------------------------------------------------------------


def _parse(text: str, source: str) -> Any:
    """Return the document's dictionaries, lists and `Written` scalars; None of an empty one."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        return None if node is None else _Reader(source).read(node, 0)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not a YAML file ({' '.join(str(error).split())[:300]})") from error
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply, expected at most {DEEPEST} levels") from None


class _Reader:
    """Reads the nodes of one document, and counts them: an alias is read as often as it is used."""

    def __init__(self, source: str) -> None:
        self.source, self.count = source, 0

    def read(self, node: yaml.Node, depth: int) -> Any:
        self.count += 1
        if depth > DEEPEST or self.count > MOST_VALUES:
            limit = f"{DEEPEST} levels" if depth > DEEPEST else f"{MOST_VALUES} values"
            raise ConfigError(f"{self.source}: line {node.start_mark.line + 1}: expected at most {limit}")
        if isinstance(node, yaml.ScalarNode):
            return (Written if node.style else Plain)(node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, depth + 1) for item in node.value]
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{self.source}: line {key.start_mark.line + 1}: a key is no text")
            if key.tag == _MERGE:
                others = self.read(value, depth + 1)
                for other in others if isinstance(others, list) else [others]:
                    merged = (other if isinstance(other, dict) else {}) | merged
            elif key.value in own:
                raise ConfigError(f"{self.source}: line {key.start_mark.line + 1}: {key.value} is there twice")
            else:
                own[key.value] = self.read(value, depth + 1)
        return merged | own


def _read_argument(text: str, kinds: Sequence[Any], source: str) -> Any:
    """Return the value of an override; a list or a mapping only where the key can be one and the text begins so."""
    opening = {"[": any(typing.get_origin(each) is list for each in kinds), "{": any(map(_is_mapping, kinds))}
    if opening.get(text.lstrip()[:1]):
        return _parse(text, source)
    return Written(text) if str in kinds and types.NoneType not in kinds else Plain(text)


# ---- values as the schema asks for them ------------------------------------------------------------------------------


def _mapping(schema: type, content: Any, source: str, prefix: str) -> dict[str, Any]:
    """Return the entries of a dataclass, each as its field's type asks."""
    hints = typing.get_type_hints(schema)
    known = {field.name: field for field in dataclasses.fields(schema)}
    if not isinstance(content, Mapping):
        where = f"{prefix.rstrip('.')}: " if prefix else ""
        raise ConfigError(f"{source}: {where}got {_shown(content)}, expected a mapping with {', '.join(known)}")
    values = {}
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{source}: unknown key {prefix}{key}; the nearest is {prefix}{near}")
        metadata = known[key].metadata
        kind, prose = metadata.get("kind", hints[key]), metadata.get("prose", False)
        values[str(key)] = _value(kind, value, source, f"{prefix}{key}", prose)
    return values


def _value(kind: Any, value: Any, source: str, key: str, prose: bool) -> Any:
    """Return `value` as a type asks: a scalar, list[...], dict[str or int, ...], a dataclass, or a union of these."""
    kinds = _alternatives(kind)
    if isinstance(value, Argument):
        value = _read_argument(value, kinds, source)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if types.NoneType in kinds and (value is None or isinstance(value, Plain) and value in _NULL):
        return None
    if isinstance(value, Mapping):
        for each in kinds:
            if isinstance(each, type) and dataclasses.is_dataclass(each):
                return _mapping(each, value, source, f"{key}.")
            if typing.get_origin(each) is dict:
                names, inner = typing.get_args(each)
                return {
                    _name(names, name, source, key): _value(inner, item, source, f"{key}.{name}", prose)
                    for name, item in value.items()
                }
    elif isinstance(value, list | tuple):
        for each in kinds:
            if typing.get_origin(each) is list:
                inner = typing.get_args(each)[0]
                return [_value(inner, item, source, f"{key}[{index}]", prose) for index, item in enumerate(value)]
    else:
        for each in kinds:
            if (found := _scalar(each, value)) is not None:
                # OmegaConf interpolates text of files and of the command line that is no prose, and nothing else.
                return str(found) if isinstance(found, Written) and not prose else _literal(found)
    expected = " or ".join(dict.fromkeys(_named(each) for each in kinds))
    expected += "; num_videos_per_prompt draws several seeds" if key == "seed" else ""
    raise ConfigError(f"{source}: {key}: got {_shown(value)}, expected {expected}")


def _name(kind: type, name: Any, source: str, key: str) -> Any:
    """Return the name of an entry as its mapping's type asks: text or a whole number."""
    found = str(name) if kind is str else _scalar(kind, name)
    if found is None:
        raise ConfigError(f"{source}: {key}: got {_shown(name)} before a colon, expected {_named(kind)}")
    return found


def _scalar(kind: Any, value: Any) -> Any:
    """Return a scalar of one type; None: the value is of another."""
    if kind is str:
        null = isinstance(value, Plain) and value in _NULL
        return value if isinstance(value, str) and not null else None
    if typing.get_origin(kind) is Literal:
        return str(value) if isinstance(value, str) and value in typing.get_args(kind) else None
    if kind is bool:
        return value if isinstance(value, bool) else _BOOLEANS.get(str(value).lower())
    if isinstance(value, bool):
        return None
    if kind is int:
        if isinstance(value, str):
            return int(value) if re.fullmatch(r"[+-]?[0-9]{1,400}", value) else None
        return int(value) if isinstance(value, int | float) and value == value // 1 else None
    if kind is float and isinstance(value, str | int | float):
        try:
            return float(str(value).replace("_", "x"))
        except ValueError:
            return None
    return None


def _merged(below: Any, above: dict[str, Any]) -> dict[str, Any]:
    """Return nested dictionaries in which the values of `above` win; values by frame are replaced as a whole."""
    if not isinstance(below, dict) or any(isinstance(key, int) for key in (*below, *above)):
        return above
    return below | {k: _merged(below.get(k), v) if isinstance(v, dict) else v for k, v in above.items()}


# ---- types -----------------------------------------------------------------------------------------------------------


def _alternatives(kind: Any) -> tuple[Any, ...]:
    union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    return typing.get_args(kind) if union else (kind,)


def _is_mapping(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict


def _named(kind: Any) -> str:
    """Return a type as messages name it."""
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    if dataclasses.is_dataclass(kind):
        return f"a mapping with {', '.join(field.name for field in dataclasses.fields(kind))}"
    names = {
        str: "text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null",
        list: "a list", dict: "a mapping",
    }  # fmt: skip
    return names[typing.get_origin(kind) or kind]


def _shown(value: Any) -> str:
    """Return a value as messages quote it."""
    if isinstance(value, Plain) and value in _NULL or value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return f"{str(value)!r:.80}" if isinstance(value, str) else f"{value!r:.80}"
