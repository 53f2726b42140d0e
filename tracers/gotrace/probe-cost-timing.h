/* SPDX-License-Identifier: Apache-2.0 */
/* How long calls of a function take, in CPU time of the thread that makes them, kernel included: a
 * probe is paid for by the thread that hits it, and what other processes take is not its cost. */
#ifndef PROBE_COST_TIMING_H
#define PROBE_COST_TIMING_H

#include <stdint.h>

/* Nanoseconds per call of a function without a probe: the median over short slices. */
double timing_unprobed_ns(void (*function)(void));

/* The same with a probe in it. wanted_calls 0: as many as fit into 0.1 s. Sets *calls to all that
 * were made. */
double timing_probed_ns(void (*function)(void), unsigned long wanted_calls, uint64_t *calls);

/* Where an address lies in the file this process runs. Returns 0 or -1. */
int timing_file_offset(const unsigned char *address, uint64_t *offset);

#endif
