/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GOTRACE_OPTIONS_H
#define GOTRACE_OPTIONS_H

#include <stdbool.h>
#include <sys/types.h>

#include "mapkind.h"
#include "mode.h"
#include "sites.h"

#define GOTRACE_VERSION "0.1.0"

struct options {
	pid_t pid;
	enum attach_mode attach; /* ATTACH_NONE when no site is placed in the kernel */
	enum placement placements[SITE_KIND_COUNT];
	enum map_kind map_kind;
	const char *preload;  /* the library before the userspace part, or NULL */
	const char *btf_path; /* NULL: the kernel's own */
	unsigned long print_events;
};

/* Reads the command line. Returns 0 with *options filled in, FAIL_USAGE after a line on stderr,
 * or -1 when everything is done (--help, --version). */
int options_parse(int argc, char **argv, struct options *options);

#endif
