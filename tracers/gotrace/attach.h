/* SPDX-License-Identifier: Apache-2.0 */
/* The links that put the programs to work. */
#ifndef GOTRACE_ATTACH_H
#define GOTRACE_ATTACH_H

#include <stdbool.h>

#include "options.h"
#include "sites.h"
#include "target.h"
#include "tracer.h"

struct bpf_link;

enum { TRACEPOINT_COUNT = 2, ATTACH_INTERRUPTED = -1 };

struct attachment {
	enum attach_mode mode;
	int multi_fd; /* the uprobe_multi link, or -1 */
	struct bpf_link *uprobes[SITE_LIMIT];
	struct bpf_link *tracepoints[TRACEPOINT_COUNT];
	double attach_ms;
};

/* Names of the tracepoints and of the system calls that are traced through them, each list ended
 * by NULL. */
extern const char *const tracepoint_names[];
extern const char *const traced_syscalls[];

/* What ATTACH_AUTO means on this kernel; other modes stay as they are. */
enum attach_mode attach_resolve(enum attach_mode wanted);

/* Whether SIGTERM or SIGINT waits to be read. */
bool attach_interrupted(void);

/* Attaches everything that is placed in the kernel. Returns 0, FAIL_NO_PROCESS, FAIL_NO_PERMISSION
 * or FAIL_ATTACH (line printed, nothing left attached), or ATTACH_INTERRUPTED when SIGTERM or
 * SIGINT is pending. */
int attach_all(enum attach_mode mode, const struct target *target, const struct sites *sites,
	       struct tracer *tracer, struct attachment *attachment);

/* Takes everything out again. */
void attach_undo(struct attachment *attachment);

#endif
