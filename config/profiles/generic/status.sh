#!/usr/bin/env bash
# Say what became of a job: running, success or failed. Snakemake hands over the id that submit.sh printed.
set -euo pipefail
. "$(dirname "$0")/scheduler.sh"

folder=$(dirname "$(ls -t .snakemake/tmp.*/"$1.submitted" | head -n 1)")
if [ -e "$folder/$1.success" ]; then
  echo success
elif [ -e "$folder/$1.failed" ]; then
  echo failed
elif [ "$(state "$1")" != gone ]; then
  echo running # also while the scheduler does not answer
elif [ ! -e "$folder/$1.gone" ]; then
  touch "$folder/$1.gone"
  echo running # its last word may still be on the way from another node
elif [ -n "$(find "$folder/$1.gone" -mmin +1)" ]; then
  echo failed # killed, without a last word
else
  echo running
fi
