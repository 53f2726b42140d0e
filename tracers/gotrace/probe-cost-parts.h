/* SPDX-License-Identifier: Apache-2.0 */
/* The two processes that a userspace hit is measured with: one that hits the probe, and one that
 * holds the program, with the runtime's library before all others. Both are probe-cost again. */
#ifndef PROBE_COST_PARTS_H
#define PROBE_COST_PARTS_H

#include <limits.h>
#include <stdint.h>
#include <sys/types.h>

/* The arguments that make probe-cost one of them. */
#define TARGET_ARGUMENT "--cost-target"
#define LOADER_ARGUMENT "--cost-loader"

/* What the target says first. It is then sent how many calls are wanted (unsigned long). */
struct target_ready {
	double unprobed_ns;
	uint64_t address; /* of the site */
	uint64_t offset;  /* of it in the file, 0 when it was not found */
};

/* What it says last. */
struct target_done {
	double probed_ns;
	uint64_t calls;
};

/* What the loader is sent first. It then says how many hits were counted (uint64_t), at once and
 * whenever it is sent a message. */
struct loader_job {
	pid_t pid;
	uint64_t offset;
	char exe[PATH_MAX];
	char preload[PATH_MAX];
};

/* Their lives; they return the exit code (line printed when it is not 0). */
int target_run(int channel);
int loader_run(int channel);

#endif
