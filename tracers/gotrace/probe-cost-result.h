/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of one class, and the line it becomes. */
#ifndef PROBE_COST_RESULT_H
#define PROBE_COST_RESULT_H

#include <stdint.h>

struct result {
	/* Before the probe is in: its breakpoint or its jump would show here. */
	char instruction[16];
	double unprobed_ns;
	double ns_per_hit;
	uint64_t hits;
	uint64_t calls;
	char error[700]; /* "" when all is well */
};

/* Sets the error if there is none yet and not every call was counted once. */
void result_check(struct result *result);

/* Prints the JSON line. */
void result_print(const char *class_name, const char *attach, const struct result *result);

#endif
