"""Hostile inputs for the fuzz tests: values of settings, YAML, JSON and pictures, valid ones damaged among them."""

import dataclasses
import io
import json
import random
import struct
import typing
import zlib
from typing import Any

from hypothesis import strategies as st
from PIL import Image

# fmt: off
NUMBERS = (
    *"0 -1 1 2 010 0x10 1_000 1.0 0.5 5e-1 1e3 1e308 1e999 1e-320 -0.0 nan inf -inf +5 --5 ٣ ² true no null ~".split(),
    str(2**31), str(2**63), str(2**64), "9" * 400, "9" * 5000,
)
TEXTS = (
    "", " ", "'", '"', "'a", '"a', "a'b\"c", "#", "a # b", "a robot #1", "a: b", ":", "-", "- a", "!!int 3", "&a b",
    "*a", "!!python/object/apply:os.getcwd []", "<<: *a", "|", "> x", "? a", "@x", "`x`", "%YAML 1.1", "---", "...",
    "a=b", "=", "${x}", "${", "$${a}", "\\${a}", "${seed}", "${output}", "${oc.env:NOWHERE}", "${oc.decode:1}",
    "${.seed}", "${..x}", "\t", "\n", "a\nb", "a\r\nb", "\0", "a\0b", "\x07", "\x1b[31m", "\x85", "\u2028",
    "\ud800", "👩\u200d🚀", "e\u0301", "\u202e", "\ufeff", "a" * 5000, "é" * 300, ".", "..", "/",
    "/dev/null", "/dev/zero", "/proc/self/mem",
    "nowhere", "a.json", "http://127.0.0.1:1/a.tar", "{00000..99999}.tar", "pipe:true",
)
CONTAINERS = (
    "[", "]", "[]", "{}", "{", "[[[[", "[a", "[a, b]", "[1, 2]", "[null]", "[[a]]", "[[]]", "{a: b}", "{a: {b: c}}",
    "{a: 1, a: 2}", "{path: a}", "{path: a, weight: x}", "{weight: 1}", "[{path: a}]", "[&a [*a]]", "{? [a] : b}",
    "{[a]: b}", "[a, 'b]", "[!!binary x]", "[" * 2000, "{a: " * 2000, "[" + "a, " * 2000 + "]",
)
TOKENS = (
    "&a ", "*a", "<<: ", "!!set ", "\t", "\0", "\x85", "\ufeff", "{", "}", "[", "]", ": ", "- ", "'", '"', "#", "${",
    "? ", "|\n",
)
UNKNOWN = ("x", ".", "seed.", ".seed", "seed.x", "prompt.x", "lora.path", "pose", "__class__", "é", "a b", "_seed")
# fmt: on
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(TEXTS),
    st.sampled_from((2**70, 10**400, "x" * 300)),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
VALUES = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(CONTAINERS),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    JSON.map(json.dumps),
)


def kinds_of(schema: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key of a schema, those of nested ones included -> its type."""
    hints, kinds = typing.get_type_hints(schema), {}
    for field in dataclasses.fields(schema):
        kind = field.metadata.get("kind", hints[field.name])
        if dataclasses.is_dataclass(kind):
            kinds |= kinds_of(kind, f"{prefix}{field.name}.")
        elif typing.get_origin(kind) is dict:
            kinds |= {f"{prefix}{field.name}.{name}": typing.get_args(kind)[1] for name in ("a", "thigh", "a.b")}
        else:
            kinds[prefix + field.name] = kind
    return kinds


@st.composite
def changes_of(draw: st.DrawFn, schema: type, unknown: bool = True) -> tuple[str, str]:
    """A key of a schema, or now and then one that it does not have, and a value: mostly plausible, else any."""
    if unknown and draw(st.integers(0, 9)) == 9:
        return draw(st.sampled_from(UNKNOWN)), draw(VALUES)
    kinds = kinds_of(schema)
    key = draw(st.sampled_from(sorted(kinds)))
    return key, draw(VALUES if draw(st.integers(0, 3)) == 3 else plausible(kinds[key]))


def plausible(kind: Any) -> st.SearchStrategy[str]:
    """Values of a type that a setting may well accept."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(inner)
    if typing.get_origin(kind) is list:
        return st.lists(plausible(inner[0]), max_size=3).map(lambda items: f"[{', '.join(items)}]")
    if inner:
        return st.one_of(*map(plausible, inner))
    texts = ("a", "a cat", "one/a.gif", "frames", "keypoints.json", "cpu", "1", "one", "native", "")
    choices = {
        int: st.integers(0, 40).map(str),
        float: st.sampled_from(("0", "0.25", "1", "2.5", "7")),
        bool: st.sampled_from(("true", "false")),
        str: st.sampled_from(texts),
    }
    return choices.get(kind, st.just("null"))


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes that were cut, zeroed, flipped, repeated or mixed with others in a few places."""
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        size = draw(st.integers(0, 4) | st.integers(0, max(1, len(content) // 4)))
        before, middle, after = content[:at], content[at : at + size], content[at + size :]
        new = draw(st.sampled_from((b"", bytes(size), middle * 3, b"\xff" + middle)) | st.binary(max_size=8))
        content = draw(st.sampled_from((before, after, *[before + new + after] * 6)))
    return content


@st.composite
def damaged_text(draw: st.DrawFn, content: str) -> bytes:
    """Text with hostile tokens and values in a few places, in this or that encoding, or with damaged bytes."""
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        piece = draw(st.one_of(st.sampled_from(TOKENS), VALUES))
        content = content[:at] + piece + content[at + draw(st.integers(0, 3)) :]
    encoding = draw(st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")))
    return draw(damaged(content.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")))


@st.composite
def damaged_json(draw: st.DrawFn, content: Any) -> Any:
    """JSON in which a few values, at any depth, are others, missing or there twice."""
    content, rng = json.loads(json.dumps(content)), random.Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(1, 3))):
        parent, key = None, None
        node = content
        while isinstance(node, dict | list) and node and (parent is None or rng.random() < 0.8):
            parent, key = node, rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            node = node[key]
        if parent is None:
            return draw(JSON)
        change = rng.random()
        if change < 0.7:
            parent[key] = draw(JSON)
        elif change < 0.85:
            del parent[key]
        elif isinstance(parent, list):
            parent.append(parent[key])
        else:
            parent[draw(st.text(max_size=4))] = parent[key]
    return content


# ---- pictures --------------------------------------------------------------------------------------------------------

FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"),
    "JPEG": ("1", "L", "RGB", "CMYK", "YCbCr"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"),
    "WEBP": ("RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I", "F"),
    "TGA": ("L", "P", "RGB", "RGBA"),
    "ICO": ("RGBA",),
}  # fmt: skip
SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".bmp", ".webp", ".tif", ".gif", ".mp4", ".avi", ".json", ".txt", "")
SIZES = ((1, 1), (2, 3), (16, 16), (17, 8), (1, 400), (400, 1))


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """A picture of any format, mode, size and orientation, of one frame or several, whole or damaged."""
    kind = draw(st.sampled_from(sorted(FORMATS)))
    mode, size = draw(st.sampled_from(FORMATS[kind])), draw(st.sampled_from(SIZES))
    image = Image.frombytes("L", size, random.Random(size[0]).randbytes(size[0] * size[1]))
    image = image.convert("I").convert(mode) if mode == "I;16" else image.convert("RGB" if mode == "LAB" else mode)
    options: dict[str, Any] = {}
    if kind in ("GIF", "PNG", "WEBP", "TIFF") and draw(st.booleans()):
        others = [
            image.resize(draw(st.sampled_from(SIZES[:4]))) if kind == "TIFF" else image.rotate(90 * n) for n in (1, 2)
        ]
        options = {"save_all": True, "append_images": others} | ({} if kind == "TIFF" else {"duration": 0})
    if kind in ("JPEG", "PNG", "WEBP") and draw(st.booleans()):
        exif = Image.Exif()
        exif[274] = draw(st.integers(0, 300))
        options["exif"] = exif
    if mode in ("P", "L") and kind in ("PNG", "GIF") and draw(st.booleans()):
        options["transparency"] = draw(st.integers(0, 255))
    file = io.BytesIO()
    image.save(file, kind, **options)
    content = file.getvalue()
    if kind == "PNG" and draw(st.integers(0, 7)) == 0:
        content = _png_of(content, draw(st.sampled_from(((0, 5), (30_000, 30_000), (2**31 - 1, 1), (1, 100_000)))))
    return draw(damaged(content))


def _png_of(content: bytes, size: tuple[int, int]) -> bytes:
    """A PNG file whose header promises another size."""
    header = b"IHDR" + struct.pack(">II", *size) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
