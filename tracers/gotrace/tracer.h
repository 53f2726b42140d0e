/* SPDX-License-Identifier: Apache-2.0 */
/* The BPF side: programs, maps, counters, events. */
#ifndef GOTRACE_TRACER_H
#define GOTRACE_TRACER_H

#include <stdint.h>

#include "binary.h"
#include "options.h"
#include "shared.h"
#include "target.h"

struct gotrace_bpf;
struct ring_buffer;

struct tracer {
	struct gotrace_bpf *bpf;
	struct ring_buffer *ring;
	uint64_t received;
	unsigned long events_to_print;
};

/* Sums over all CPUs at one moment. */
struct counts {
	uint64_t monotonic_ns;
	uint64_t site_hits[SITE_LIMIT];
	uint64_t tracepoint_hits;
	uint64_t emitted;
	uint64_t received;
	uint64_t lost;
};

/* Loads the programs for one target; mode must not be ATTACH_AUTO. The tracer must stay where it
 * is until tracer_unload. Returns 0, FAIL_NO_BTF, FAIL_NO_PERMISSION or FAIL_LOAD (line
 * printed). */
int tracer_load(const struct options *options, enum attach_mode mode, const struct target *target,
		const struct binary *binary, struct tracer *tracer);

/* Readable when the kernel says that enough events wait. */
int tracer_event_fd(const struct tracer *tracer);

/* Takes all events that wait. */
void tracer_drain(struct tracer *tracer);

void tracer_counts(struct tracer *tracer, size_t site_count, struct counts *counts);

void tracer_unload(struct tracer *tracer);

#endif
