"""Schemas of nodes, whose widgets are settings of the command line: name, default, choices and help."""

from typing import Any, Literal, get_args, get_origin, get_type_hints

from comfy_api.latest import io

from followyourpose.config.comments import help_texts


def node(name: str, title: str, about: str, inputs: list[io.Input], outputs: list[io.Output]) -> io.Schema:
    """Return the schema of a node of this package."""
    return io.Schema(
        node_id=f"FollowYourPose{name}",
        display_name=title,
        category="Follow Your Pose",
        description=about,
        inputs=inputs,
        outputs=outputs,
    )


def widget(schema: type, key: str, low: float = 0, high: float = 100_000, **more: Any) -> io.Input:
    """Return the widget of a setting.

    Args:
        low, high: limits of a number, which the schema checks too. Where it may be None, 0 stands for that.
        more: further arguments of the widget, such as its step; `name` is its name, where that is not the key.
    """
    kind, default = get_type_hints(schema)[key], getattr(schema, key)
    kind = type(default) if kind is Any else kind  # a number, where a config may also have numbers by frame
    more = {"default": default, "tooltip": help_texts(schema)[key].replace("None", "0")} | more
    name = more.pop("name", key)
    if get_origin(kind) is Literal:
        return io.Combo.Input(name, **{"options": list(get_args(kind))} | more)
    if kind in (bool, str):
        return (io.Boolean if kind is bool else io.String).Input(name, **more)
    more["default"] = more["default"] or 0
    return (io.Float if kind is float else io.Int).Input(name, **{"min": low, "max": high} | more)
