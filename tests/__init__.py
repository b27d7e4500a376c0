"""The tests. They import the package first, which disables the telemetry of libraries."""

import stepaudiod  # noqa: F401
