// SPDX-License-Identifier: Apache-2.0
#include "warning.h"

#include <bpf/libbpf.h>
#include <stdio.h>
#include <string.h>

/* libbpf tells a failure in many lines; the first one that warns names the cause. */
static char first[512];

static int keep_first(enum libbpf_print_level level, const char *format, va_list arguments)
{
	if (level == LIBBPF_WARN && !first[0]) {
		vsnprintf(first, sizeof(first), format, arguments);
		first[strcspn(first, "\n")] = 0;
	}
	return 0;
}

void warning_keep_first(void)
{
	libbpf_set_print(keep_first);
}

const char *warning_first(void)
{
	return first[0] ? first : "no further word";
}
