#!/usr/bin/env bash
# End what start.sh started under ROOT, and take its configuration out of /etc/slurm.
# usage: stop.sh ROOT
root=$(cd "${1:?usage: stop.sh ROOT}" && pwd)
for name in slurmd.one slurmd.two slurmctld munged; do
  number=$(cat "$root/$name.pid" 2> /dev/null) || continue
  kill "$number" 2> /dev/null
  for _ in $(seq 100); do
    kill -0 "$number" 2> /dev/null || break
    sleep 0.1
  done
done
for name in slurm.conf gres.conf; do
  [ "$(readlink "/etc/slurm/$name")" = "$root/$name" ] && rm "/etc/slurm/$name"
done
rmdir /etc/slurm 2> /dev/null || true
