// SPDX-License-Identifier: Apache-2.0
#include "probe-cost-result.h"

#include <inttypes.h>
#include <stdio.h>

void result_check(struct result *result)
{
	if (!result->error[0] && result->hits != result->calls)
		snprintf(result->error, sizeof(result->error),
			 "%" PRIu64 " hits counted for %" PRIu64 " calls", result->hits,
			 result->calls);
}

/* Errors quote the lines of other programs. */
static void print_string(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			printf("\\%c", *text);
		else if ((unsigned char)*text < 0x20 || *text == 0x7f)
			printf("\\u%04x", *text);
		else
			putchar(*text);
	}
	putchar('"');
}

void result_print(const char *class_name, const char *attach, const struct result *result)
{
	printf("{\"class\":\"%s\",\"instruction\":\"%s\",\"ns_per_hit\":", class_name,
	       result->instruction);
	if (result->error[0])
		printf("null");
	else
		printf("%.1f", result->ns_per_hit);
	printf(",\"hits\":%" PRIu64 ",\"calls\":%" PRIu64 ",\"attach\":\"%s\",\"error\":",
	       result->hits, result->calls, attach);
	if (result->error[0])
		print_string(result->error);
	else
		printf("null");
	printf("}\n");
}
