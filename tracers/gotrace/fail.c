// SPDX-License-Identifier: Apache-2.0
#include "fail.h"

#include <stdarg.h>
#include <stdio.h>

int (*fail_cause)(int code, char *message, size_t size);

int fail(int code, const char *format, ...)
{
	char message[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	if (fail_cause)
		code = fail_cause(code, message, sizeof(message));
	/* Texts of others (libbpf, file names) may hold line ends; a cause is one line. */
	for (char *at = message; *at; at++)
		if (*at == '\n' || *at == '\r')
			*at = ' ';
	fprintf(stderr, "%s: %s\n", program_name, message);
	return code;
}
