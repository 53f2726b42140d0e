/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GOTRACE_OPTIONS_H
#define GOTRACE_OPTIONS_H

#include <stdbool.h>
#include <sys/types.h>

#include "mode.h"

#define GOTRACE_VERSION "0.1.0"

struct options {
	pid_t pid;
	enum attach_mode attach;
	const char *btf_path; /* NULL: the kernel's own */
	unsigned long print_events;
};

/* Reads the command line. Returns 0 with *options filled in, FAIL_USAGE after a line on stderr,
 * or -1 when everything is done (--help, --version). */
int options_parse(int argc, char **argv, struct options *options);

#endif
