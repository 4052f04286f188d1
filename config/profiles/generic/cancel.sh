#!/usr/bin/env bash
# Cancel jobs. Snakemake hands over their ids after Ctrl-C, and kills this script, not what it started, after 2 seconds.
. "$(dirname "$0")/scheduler.sh"

cancel "$@"
