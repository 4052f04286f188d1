# Your scheduler: pbs.sh, sge.sh or lsf.sh, which have its commands with their options.
. "$(dirname "$0")/pbs.sh"
