"""The tests. The package is imported first: it switches off the reports of libraries here and in children."""

import stepaudiod  # noqa: F401
