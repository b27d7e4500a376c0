#!/bin/sh
# Prints the beginning of the day in the version of the runtimes and the voices (2026.11.29.1), in seconds.
set -eu
date --utc --date="$(cut -d' ' -f1 "$(dirname "$0")/lock/version" | cut -d. -f1-3 | tr . -)" +%s
