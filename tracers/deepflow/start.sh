#!/bin/sh
# Starts DeepFlow's rust_sample: start.sh MODE SERVER_PID PROGRAM
#
#   probes       its uprobes go to this server alone
#   no-uprobes   it sees no process to probe
#   as-shipped   it probes every Go process of the machine, as it does by itself
#
# It takes no PID: it looks through /proc for Go programs. So it gets a /proc of its own, in which
# there are only itself and the server. All mounts are private to it and end with it.
set -eu

mode=$1 server=$2 program=$3

if [ "${DEEPFLOW_PRIVATE:-}" != yes ]; then
    # It replaces this shell, as does the tracer in the end: signals reach it, its PID is ours.
    exec env DEEPFLOW_PRIVATE=yes unshare --mount --propagation private -- /bin/sh "$0" "$@"
fi
unset DEEPFLOW_PRIVATE

# A server and what it started.
family() {
    echo "$1"
    for child in $(cat "/proc/$1/task"/*/children); do
        family "$child"
    done
}

# What is no process of /proc, and the processes PID...
narrow_proc() {
    # Nothing of it is left on the host, whenever this ends.
    proc=/var/log/proc
    mkdir "$proc"
    mount -t tmpfs -o mode=0555 proc "$proc"
    for entry in /proc/*; do
        name=${entry##*/}
        case $name in
        *[!0-9]*) ;;
        *) continue ;;
        esac
        if [ "$name" = self ]; then
            ln -s "$$" "$proc/self"
        elif [ "$name" = thread-self ]; then
            ln -s "$$/task/$$" "$proc/thread-self"
        elif [ -L "$entry" ]; then
            cp -P "$entry" "$proc/$name"
        elif [ -d "$entry" ]; then
            mkdir "$proc/$name"
            mount --bind "$entry" "$proc/$name"
        else
            : >"$proc/$name"
            mount --bind "$entry" "$proc/$name"
        fi
    done
    for pid in "$@"; do
        mkdir "$proc/$pid"
        mount --bind "/proc/$pid" "$proc/$pid"
    done
    mount --move "$proc" /proc
    rmdir "$proc"
}

# Its libbpf looks for tracepoints in one place only.
tracing=/sys/kernel/debug/tracing
if [ ! -d "$tracing/events" ] && [ -d /sys/kernel/debug ]; then
    mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null || mount -t tmpfs debugfs /sys/kernel/debug
    mkdir -p "$tracing"
    # Where that is refused, the tracer itself says what it lacks.
    [ -d "$tracing/events" ] || mount -t tracefs tracefs "$tracing" 2>/dev/null || true
fi

# It appends to a log there for ever; what it says is on its standard output, too.
mount -t tmpfs -o size=16m log /var/log

case $mode in
probes)
    # One word for each process.
    narrow_proc $(family "$server") "$$"
    ;;
no-uprobes)
    narrow_proc "$$"
    # No source of it that is published reads this; that it probes nothing is seen in the server.
    export NO_UPROBE=1
    ;;
as-shipped) ;;
*)
    echo "start.sh: no mode $mode" >&2
    exit 2
    ;;
esac
exec "$program"
