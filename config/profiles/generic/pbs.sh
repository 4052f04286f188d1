# OpenPBS and PBS Professional. Add what your site wants to the options of qsub, such as -q QUEUE or -P PROJECT.
# Torque wants -l "nodes=1:ppn=$threads${gpus:+:gpus=$gpus},mem=${megabytes}mb" in place of select.

job_id=PBS_JOBID # the variable in which a job finds its id

# Submit the script on standard input, print the id.
submit() {
  qsub -N "$name" -V -r n -S /bin/sh -j oe -o "$logs/" \
    -l "select=1:ncpus=$threads:mem=${megabytes}mb${gpus:+:ngpus=$gpus}" -l "walltime=$((minutes * 60))"
}

# Say whether a job is queued or running (here) or not (gone); nothing if the scheduler does not answer.
state() {
  local answer
  if answer=$(qstat "$1" 2>&1); then
    echo here
  elif [[ $answer == *"Unknown Job Id"* || $answer == *"Job has finished"* ]]; then
    echo gone
  else
    echo "$answer" >&2
  fi
}

cancel() {
  qdel "$@"
}
