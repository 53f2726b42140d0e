#!/bin/sh
# Starts bpftrace on the libssl that the server has mapped, which may be a copy of its own.
set -eu
bpftrace=$1 script=$2 pid=$3
library=$(sed -n 's|.* \(/.*/libssl\.so\.3\)$|\1|p' "/proc/$pid/maps" | head -n 1)
exec "$bpftrace" -e "$(sed "s|LIBSSL|$library|" "$script")"
