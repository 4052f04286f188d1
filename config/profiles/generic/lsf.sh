# LSF. Add what your site wants to the options of bsub, such as -q QUEUE or -P PROJECT.
# Before 10.1.0.2 memory has no unit: leave out MB, in -M and in rusage, and ask your site which units they have.

job_id=LSB_JOBID # the variable in which a job finds its id

# Submit the script on standard input, print the id.
submit() {
  local answer
  answer=$(bsub -J "$name" -rn -o "$logs/%J.log" -n "$threads" -R "span[hosts=1] rusage[mem=${megabytes}MB]" \
    -M "${megabytes}MB" -W "$minutes" ${gpus:+-gpu "num=$gpus"}) &&
    [[ $answer =~ Job\ \<([0-9]+)\> ]] && echo "${BASH_REMATCH[1]}"
}

# Say whether a job is queued or running (here) or not (gone); nothing if the scheduler does not answer.
state() {
  local answer
  answer=$(bjobs -a -noheader -o stat "$1" 2>&1) || true
  case $answer in
    PEND* | RUN* | PSUSP* | USUSP* | SSUSP* | PROV* | WAIT* | UNKWN*) echo here ;;
    DONE* | EXIT* | ZOMBI* | *"is not found"*) echo gone ;;
    *) echo "$answer" >&2 ;;
  esac
}

cancel() {
  bkill "$@"
}
