/* SPDX-License-Identifier: Apache-2.0 */
/* Exit codes, and the one line on stderr that comes with each. */
#ifndef GOTRACE_FAIL_H
#define GOTRACE_FAIL_H

#include <stddef.h>

enum {
	FAIL_USAGE = 2,
	FAIL_NO_PROCESS = 10,
	FAIL_NOT_GO = 11,
	FAIL_STRIPPED = 12,
	FAIL_NO_BTF = 13,
	FAIL_NO_PERMISSION = 14,
	FAIL_LOAD = 15,
	FAIL_ATTACH = 16,
	FAIL_TARGET_EXITED = 17,
	FAIL_USERSPACE = 18,
};

/* The name that starts every line on stderr; each program defines its own. */
extern const char program_name[];

/* Set by a program that may know a cause behind the failure: may replace the message, and returns
 * the code to end with. */
extern int (*fail_cause)(int code, char *message, size_t size);

/* Prints "<program>: <message>" as one line on stderr and returns code. */
int fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
