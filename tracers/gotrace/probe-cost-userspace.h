/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROBE_COST_USERSPACE_H
#define PROBE_COST_USERSPACE_H

#include "probe-cost-result.h"

/* Measures what a hit costs in a userspace runtime: preload is its library that stands in for the
 * kernel, bpftime its program that attaches to a process. Fills in the result, with an error where
 * it could not be measured. What was started is ended and its shared memory removed. Returns 0, or
 * the number of the signal that ended it early. */
int userspace_measure(const char *preload, const char *bpftime, unsigned long wanted_calls,
		      struct result *result);

#endif
