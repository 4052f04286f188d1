# Grid Engine (SGE and its successors). Add what your site wants to the options of qsub, such as -q QUEUE or -P PROJECT.
# Sites name these as they like: the parallel environment (smp), memory of a slot (mem_free), GPUs of the job (gpu).
# h_vmem limits addresses, not memory: where it is enforced, write it in place of mem_free and ask for more.

job_id=JOB_ID # the variable in which a job finds its id

# Submit the script on standard input, print the id.
submit() {
  qsub -terse -N "$name" -V -r n -S /bin/sh -j y -o "$logs" \
    -pe smp "$threads" -l "mem_free=$(((megabytes + threads - 1) / threads))M,h_rt=$((minutes * 60))${gpus:+,gpu=$gpus}"
}

# Say whether a job is queued or running (here) or not (gone); nothing if the scheduler does not answer.
state() {
  local jobs
  jobs=$(qstat -u "$(id -un)") || return 0
  case $(awk -v id="$1" '$1 == id {print $5}' <<<"$jobs") in
    "") echo gone ;;
    *E*) qdel "$1" >&2 && echo here ;; # it could not be started and would wait for ever; the next answer is gone
    *) echo here ;;
  esac
}

cancel() {
  qdel "$@"
}
