# A scheduler for tests of config/profiles/generic: a job is a shell in the background, its id the process.
# It keeps the jobs' scripts and a list of what it was asked for in the folder $SHELL_SCHEDULER.

job_id=SHELL_JOB

submit() {
  local script
  script=$(mktemp "$SHELL_SCHEDULER/job.XXXXXX")
  cat >"$script"
  setsid sh -c 'SHELL_JOB=$$ exec sh "$0"' "$script" >>"$logs/$name.log" 2>&1 </dev/null &
  echo "submit $! $name threads=$threads mem_mb=$megabytes runtime=$minutes gpu=$gpus" >>"$SHELL_SCHEDULER/calls"
  echo $!
}

state() {
  if grep -q . "/proc/$1/cmdline"; then echo here; else echo gone; fi # without a command line: ended, not yet reaped
}

cancel() {
  echo "cancel $*" >>"$SHELL_SCHEDULER/calls"
  for id; do kill -- "-$id"; done
}
