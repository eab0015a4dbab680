"""Choice of a model's files among those of its repository: configs, tokenizer, and weights in one format."""

import re
from collections.abc import Collection, Iterable

_WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model|pytorch_lora_weights|learned_embeds)"
    r"(\.(?P<variant>\w+))?(-\d+-of-\d+)?\.(?P<format>safetensors|bin)"
)
_TEXT = (".json", ".txt", ".model", ".jinja")
_SINGLE = (".safetensors", ".pt", ".bin", ".ckpt")  # of files of weights with a name of their own; the best first
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "onnx", "openvino")  # of Stable Diffusion's folders


def needed_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """Return the files that loading needs, sorted: text files, and of each folder's weights one format and variant.

    Safetensors come before pickles. Without `variant` the plain weights are taken, and another variant only of a folder
    that has nothing else; with it, the plain weights only of a folder without it. Of a repository of one file of
    weights with a name of its own, as of a LoRA, that file; several are for the caller to choose from.
    """
    chosen, weights, single = set(), dict[str, dict[tuple[str, str | None], list[str]]](), dict[str, list[str]]()
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder.split("/")[0] in _UNUSED or file.startswith("."):
            continue
        if match := _WEIGHTS.fullmatch(file):
            weights.setdefault(folder, {}).setdefault((match["format"], match["variant"]), []).append(name)
        elif file.endswith(_TEXT):
            chosen.add(name)
        elif not folder and file.endswith(_SINGLE):
            single.setdefault(file[file.rindex(".") :], []).append(name)
    for kinds in weights.values():
        chosen |= set(kinds[_best(kinds, variant)])
    found = next((single[form] for form in _SINGLE if form in single), [])
    if not weights and len(found) == 1:
        chosen |= set(found)
    return sorted(chosen)


def weights_in(names: Iterable[str], variant: str | None = None) -> tuple[str, str | None]:
    """Return format and variant of the weights to load among the files of one folder; ("", None): it has none."""
    matches = [match for name in names if (match := _WEIGHTS.fullmatch(name))]
    kinds = {(match["format"], match["variant"]) for match in matches}
    return _best(kinds, variant) if kinds else ("", None)


def _best(kinds: Collection[tuple[str, str | None]], variant: str | None) -> tuple[str, str | None]:
    variants = [variant, None] if variant else [None, "fp16"]
    others = sorted({found for _, found in kinds if found not in variants})
    order = [(form, each) for each in (*variants, *others) for form in ("safetensors", "bin")]
    return next(kind for kind in order if kind in kinds)
