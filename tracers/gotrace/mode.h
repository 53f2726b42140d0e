/* SPDX-License-Identifier: Apache-2.0 */
/* The ways to set uprobes. */
#ifndef GOTRACE_MODE_H
#define GOTRACE_MODE_H

enum attach_mode {
	ATTACH_AUTO,
	ATTACH_UPROBE_MULTI,
	ATTACH_PERF_EVENT,
	ATTACH_NONE,
};

/* The word for a mode, as on the command line and in the output. */
const char *attach_name(enum attach_mode mode);

/* Reads the word of a mode that may be asked for (not "none"). Returns 0, or -1 for any other. */
int attach_parse(const char *text, enum attach_mode *mode);

#endif
