"""Opens a model hub by its name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from stepaudiod.ctl.errors import ClientMissing

if TYPE_CHECKING:
    from stepaudiod.ctl.hub.sources import Source

CLIENTS = {"huggingface": "huggingface_hub", "modelscope": "modelscope_hub"}


def open_source(name: str, endpoint: str | None) -> Source:
    """A hub by its name, and another server that speaks for it.

    Raises:
        ClientMissing: its client isn't installed.
    """
    if find_spec(CLIENTS[name]) is None:
        package = CLIENTS[name].replace("_", "-")
        raise ClientMissing(
            f"To pull from {name}, its client {package} has to be installed where stepaudioctl runs: "
            "pip install 'stepaudiod[hub]'. The Debian runtimes with torch bring it. Or copy the files by "
            'hand: docs/models.md, "Without a network".'
        )
    # only now: a client takes longer to import than every other command to run
    if name == "modelscope":
        from stepaudiod.ctl.hub.modelscope import ModelScope

        return ModelScope(endpoint)
    from stepaudiod.ctl.hub.huggingface import HuggingFace

    return HuggingFace(endpoint)
