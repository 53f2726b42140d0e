/* SPDX-License-Identifier: Apache-2.0 */
/* The userspace part as gotrace sees it: a child that loads and holds the programs of the sites
 * that are placed in userspace. It is a process of its own because the runtime's library, put
 * before it, takes the place of the kernel for a whole process. */
#ifndef GOTRACE_USERSPACE_H
#define GOTRACE_USERSPACE_H

#include <stdbool.h>

#include "binary.h"
#include "child.h"
#include "options.h"
#include "sites.h"
#include "target.h"
#include "tracer.h"

struct userspace {
	struct child child; /* says what part.h describes */
	double attach_ms;   /* how long it took to start and to set its probes */
};

#define USERSPACE_NONE {.child = CHILD_NONE}

/* Starts the part, if a site is placed there, and waits until its probes are set. *userspace must
 * be USERSPACE_NONE. Returns 0, FAIL_USERSPACE (line printed, nothing left) or ATTACH_INTERRUPTED
 * (the same, no line). */
int userspace_start(const struct options *options, const struct target *target,
		    const struct binary *binary, const struct sites *sites,
		    struct userspace *userspace);

/* Adds its hits. last: takes out the probes first, if they are the kernel's, and ends the part.
 * Returns 0, or FAIL_USERSPACE when it no longer answers (no line printed: see
 * userspace_failure). */
int userspace_counts(struct userspace *userspace, const struct sites *sites, bool last,
		     struct counts *counts);

/* Takes what it has printed. Returns false once it has ended. */
bool userspace_listen(struct userspace *userspace);

/* Ends it and prints why it failed. Returns FAIL_USERSPACE. */
int userspace_failure(struct userspace *userspace);

/* Ends it, if it runs. */
void userspace_stop(struct userspace *userspace);

#endif
