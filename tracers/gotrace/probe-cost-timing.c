// SPDX-License-Identifier: Apache-2.0
#include "probe-cost-timing.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
	/* The median of many short slices: one that was disturbed does not count. */
	SLICE_COUNT = 45,
	SLICE_NS = 2 * 1000 * 1000,
	WARM_UP_CALLS = 300,
	/* A call without a probe takes nanoseconds: this many give a steady mean. */
	UNPROBED_CALLS = 100000,
};

void call_repeatedly(void (*function)(void), unsigned long calls);

static uint64_t cpu_time_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static double ns_per_call(void (*function)(void), unsigned long calls)
{
	uint64_t start_ns = cpu_time_ns();

	call_repeatedly(function, calls);
	return (double)(cpu_time_ns() - start_ns) / (double)calls;
}

static int compare_doubles(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return (a > b) - (a < b);
}

static double median_ns(void (*function)(void), unsigned long calls_per_slice)
{
	double values[SLICE_COUNT];

	for (size_t slice = 0; slice < SLICE_COUNT; slice++)
		values[slice] = ns_per_call(function, calls_per_slice);
	qsort(values, SLICE_COUNT, sizeof(values[0]), compare_doubles);
	return values[SLICE_COUNT / 2];
}

double timing_unprobed_ns(void (*function)(void))
{
	ns_per_call(function, WARM_UP_CALLS);
	return median_ns(function, UNPROBED_CALLS / SLICE_COUNT);
}

double timing_probed_ns(void (*function)(void), unsigned long wanted_calls, uint64_t *calls)
{
	double first_ns = ns_per_call(function, WARM_UP_CALLS);
	unsigned long per_slice =
	    wanted_calls ? wanted_calls / SLICE_COUNT : (unsigned long)(SLICE_NS / first_ns);

	per_slice = per_slice ? per_slice : 1;
	*calls = WARM_UP_CALLS + SLICE_COUNT * per_slice;
	return median_ns(function, per_slice);
}

int timing_file_offset(const unsigned char *address, uint64_t *offset)
{
	unsigned long start, end, at;
	bool found = false;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "re");

	if (!maps)
		return -1;
	while (!found && fgets(line, sizeof(line), maps)) {
		found = sscanf(line, "%lx-%lx %*s %lx", &start, &end, &at) == 3 &&
			(unsigned long)address >= start && (unsigned long)address < end;
	}
	fclose(maps);
	*offset = (unsigned long)address - start + at;
	return found ? 0 : -1;
}
