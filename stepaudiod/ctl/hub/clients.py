"""Opens a model hub by its name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from stepaudiod.ctl.errors import ClientMissing

if TYPE_CHECKING:
    from stepaudiod.ctl.hub.sources import Source

CLIENTS = {"huggingface": "huggingface_hub", "modelscope": "modelscope_hub"}


def open_source(name: str, endpoint: str | None) -> Source:
    """Open a hub by its name.

    Args:
        name: `huggingface` or `modelscope`.
        endpoint: another server; None is the client's default.

    Raises:
        ClientMissing: the hub's client isn't installed.
    """
    if find_spec(CLIENTS[name]) is None:
        package = CLIENTS[name].replace("_", "-")
        raise ClientMissing(
            f"Pulling from {name} needs its client {package} where stepaudioctl runs: "
            "pip install 'stepaudiod[hub]'. The Debian runtimes with torch have it. Or copy the files by "
            "hand, as described in docs/models.md."
        )
    if name == "modelscope":
        from stepaudiod.ctl.hub.modelscope import ModelScope

        return ModelScope(endpoint)
    from stepaudiod.ctl.hub.huggingface import HuggingFace

    return HuggingFace(endpoint)
