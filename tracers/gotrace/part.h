/* SPDX-License-Identifier: Apache-2.0 */
/* The userspace part, a process of its own: what gotrace and it say to each other over a socket
 * that keeps messages whole. gotrace sends one job, then requests; each of them is answered by one
 * report. */
#ifndef GOTRACE_PART_H
#define GOTRACE_PART_H

#include <limits.h>
#include <stdint.h>
#include <sys/types.h>

#include "mapkind.h"
#include "shared.h"

/* The argument that makes gotrace its own userspace part. */
#define PART_ARGUMENT "--userspace-part"

struct part_job {
	pid_t pid;
	uint32_t goid_offset;
	enum map_kind map_kind;
	/* By kind: the offset in the file, 0 for a site that is not of this part. */
	uint64_t offsets[SITE_KIND_COUNT];
	char exe[PATH_MAX];
	char preload[PATH_MAX]; /* "" when nothing was preloaded */
};

enum part_request {
	PART_COUNT,	 /* report the hits */
	PART_COUNT_LAST, /* first take the probes out, where that is ours to do; then end */
};

/* The first one says that the probes are set. */
struct part_report {
	uint64_t hits[SITE_KIND_COUNT];
};

/* The life of the userspace part. Returns its exit code (line printed when it is not 0). */
int part_run(int channel);

#endif
