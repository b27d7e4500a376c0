"""stepaudiod: a speech server that runs only while it is used.

Importing the package disables the telemetry of libraries. This is done here because every process of the
project imports the package before any such library.
"""

import os

__version__ = "0.1.0"

NO_TELEMETRY = {
    # onnxruntime, in its wheels for Linux since 1.29: files below XDG_CACHE_HOME or HOME, DNS, HTTPS
    "ORT_DISABLE_TELEMETRY": "1",
    # gradio: a version check at each start, and a report of each page
    "GRADIO_ANALYTICS_ENABLED": "False",
    # huggingface_hub, transformers, hf-xet: reports of downloads, versions and programs in the User-Agent
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # a convention of console programs (https://donottrack.sh); huggingface_hub and hf-xet read it
    "DO_NOT_TRACK": "1",
}
"""Variables that make libraries send nothing. They override the environment."""

os.environ.update(NO_TELEMETRY)

# pydantic would search the metadata of every installed distribution for plugins at each start
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
