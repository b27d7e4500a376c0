"""stepaudiod: speech that isn't running until you connect.

Importing the package switches off the reports that libraries of this installation send to their makers. It
happens here because every process of the project imports the package first, before any such library.
"""

import os

__version__ = "0.1.0"

SILENT = {
    # onnxruntime, in its wheels for Linux since 1.29: files below XDG_CACHE_HOME or HOME, DNS, HTTPS
    "ORT_DISABLE_TELEMETRY": "1",
    # gradio: a version check at each start, and a report of each page
    "GRADIO_ANALYTICS_ENABLED": "False",
    # huggingface_hub, transformers, hf-xet: reports of downloads, versions and programs in the User-Agent
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # what console programs agree on (https://donottrack.sh); huggingface_hub and hf-xet read it
    "DO_NOT_TRACK": "1",
}
"""Variables that tell libraries to send nothing. They overrule what the environment says."""

os.environ.update(SILENT)

# to find plugins, pydantic would read the metadata of every installed distribution at each start
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
