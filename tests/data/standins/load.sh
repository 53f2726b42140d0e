#!/bin/sh
# A stand-in for a load generator that never ends.
exec sleep 600
