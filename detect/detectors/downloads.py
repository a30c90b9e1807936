"""Where the pretrained weights of timm and torchvision come from: said before they are downloaded."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from torch import hub

from detect.detectors.pretrained_weights import import_timm
from detect.ops.torchvision_import import import_torchvision


def download_of(word: str) -> str | None:
    """The line that says what building a model with pretrained weights may download, from where, and where it is kept.

    None for other models than ``timm:NAME`` and ``torchvision:NAME``, and for names that the package does not know: no
    weights of theirs are downloaded.

    >>> download_of("lite0")

    Raises:
        MissingExtraError: timm or torchvision is not installed.
    """
    source, _, name = word.partition(":")
    found = {"timm": _of_timm, "torchvision": _of_torchvision}.get(source, lambda _: None)(name)
    if found is None:
        return None
    url, place = found
    return (
        f"{word}: the pretrained weights are downloaded from {url} unless they are in {place} already, and kept there"
    )


def _of_timm(name: str) -> tuple[str, Path] | None:
    import_timm()
    known = import_module("timm.models").get_pretrained_cfg(name, allow_unregistered=True)
    if known is None:
        return None
    if known.hf_hub_id:  # timm prefers it
        constants = import_module("huggingface_hub.constants")
        return f"{constants.ENDPOINT}/{known.hf_hub_id}", Path(constants.HF_HUB_CACHE)
    return _of_url(known.url)


def _of_torchvision(name: str) -> tuple[str, Path] | None:
    models = import_torchvision().models
    if name not in models.list_models():
        return None
    return _of_url(models.get_model_weights(name).DEFAULT.url)


def _of_url(url: str | None) -> tuple[str, Path] | None:
    """What ``torch.hub`` downloads, and its folder."""
    return (url, Path(hub.get_dir()) / "checkpoints") if url else None
