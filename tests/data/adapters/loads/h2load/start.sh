#!/bin/sh
# Starts h2load as an open loop: each connection sends at its share of the rate, whether answers
# came or not. First it prints what was asked for, because h2load's own report does not say it.
set -eu
h2load=$1 rate_per_s=$2 connections=$3 log_bytes=$4
shift 4
echo "asked for $rate_per_s requests/s on $connections connections"
# --rps is of one connection.
rps=$(awk "BEGIN { printf \"%.6f\", $rate_per_s / $connections }")
exec prlimit --fsize="$log_bytes" "$h2load" --rps "$rps" -c "$connections" "$@"
