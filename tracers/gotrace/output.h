/* SPDX-License-Identifier: Apache-2.0 */
/* JSON lines on stdout. Lines wait in memory while nobody reads, so that an unread pipe never
 * stops the tracing. */
#ifndef GOTRACE_OUTPUT_H
#define GOTRACE_OUTPUT_H

#include <stdbool.h>

#include "attach.h"
#include "options.h"
#include "shared.h"
#include "sites.h"
#include "target.h"
#include "tracer.h"
#include "userspace.h"

void output_attached(const struct options *options, const struct target *target,
		     const struct sites *sites, const struct attachment *attachment,
		     const struct userspace *userspace);
void output_counters(const struct sites *sites, const struct counts *counts);
void output_end(const struct sites *sites, const struct counts *counts, const char *reason,
		double detach_ms);
void output_event(const struct event *event);

/* Whether lines wait for a reader. */
bool output_waiting(void);

/* Writes what the reader takes without blocking. */
void output_flush(void);

/* Writes the rest, but waits for a reader no longer than timeout_ms. */
void output_finish(int timeout_ms);

#endif
