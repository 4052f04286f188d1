#!/usr/bin/env bash
# Submit a job and print its id. Snakemake hands over the job's script, whose second line says what the job asks for.
set -euo pipefail
. "$(dirname "$0")/scheduler.sh"

script=$1 folder=$(dirname "$1") logs=$PWD/results/logs/cluster
asks=$(python3 -c '
import json, sys
job = json.loads(open(sys.argv[1]).readlines()[1].replace("# properties = ", "", 1))
asks = job["resources"]
print(job.get("rule") or job["groupid"], job["threads"], asks["mem_mb"], asks["runtime"], asks.get("gpu") or "")
' "$script")
read -r name threads megabytes minutes gpus <<<"$asks"
mkdir -p "$logs"

# A scheduler may forget a job as soon as it has ended, so the job leaves its last word beside its script.
id=$(submit <<END
#!/bin/sh
if sh "$script"; then touch "$folder/\$$job_id.success"; else touch "$folder/\$$job_id.failed"; exit 1; fi
END
)
touch "$folder/$id.submitted"
echo "$id"
