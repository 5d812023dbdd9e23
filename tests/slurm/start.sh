#!/usr/bin/env bash
# Start a SLURM of two nodes on this machine, without systemd; stop.sh ends it.
# usage: start.sh ROOT    (a folder that it may fill; then: export SLURM_CONF=ROOT/slurm.conf)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?usage: start.sh ROOT}"
root=$(cd "$1" && pwd)

free_ports() {
  python3 - "$1" <<'PYTHON'
import socket, sys
probes = [socket.socket() for _ in range(int(sys.argv[1]))]
for probe in probes:
    probe.bind(("127.0.0.1", 0))
print(*(probe.getsockname()[1] for probe in probes))
PYTHON
}

# A controller that is started again keeps its ports and its jobs.
if [ ! -e "$root/slurm.conf" ]; then
  read -r controller one two <<< "$(free_ports 3)"
  for name in slurm.conf gres.conf; do
    sed -e "s#@ROOT@#$root#g; s#@HOST@#$(hostname -s)#g; s#@CONTROLLER_PORT@#$controller#" \
      -e "s#@PORT_ONE@#$one#; s#@PORT_TWO@#$two#" "$here/$name.in" > "$root/$name"
  done
  mkdir -p "$root/state" "$root/spool.one" "$root/spool.two"
  head -c 128 /dev/urandom > "$root/munge.key"
  chmod 600 "$root/munge.key"
fi
export SLURM_CONF=$root/slurm.conf

# Job steps that Snakemake starts lose SLURM_CONF from their environment and look here.
mkdir -p /etc/slurm
for name in slurm.conf gres.conf; do
  ln -sfn "$root/$name" "/etc/slurm/$name"
done

munged --force --socket="$root/munge.socket" --key-file="$root/munge.key" \
  --pid-file="$root/munged.pid" --log-file="$root/munged.log" --seed-file="$root/munge.seed"
slurmctld
slurmd -N one
slurmd -N two
for _ in $(seq 60); do
  [ "$(sinfo --noheader --partition=cpu --format='%D %t' 2> "$root/sinfo.err")" = "2 idle" ] && exit 0
  sleep 0.5
done
echo "error: the nodes did not become idle; see the logs in $root" >&2
sinfo --Node --long >&2
exit 1
