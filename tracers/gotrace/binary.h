/* SPDX-License-Identifier: Apache-2.0 */
/* A Go program as its ELF file describes it. */
#ifndef GOTRACE_BINARY_H
#define GOTRACE_BINARY_H

#include <stddef.h>
#include <stdint.h>

struct binary {
	const char *name; /* for messages */
	const unsigned char *data;
	size_t bytes;
	int go_minor;	      /* 19 for go1.19.8 */
	uint32_t goid_offset; /* of goid in runtime.g */
};

struct function {
	uint64_t address; /* ELF virtual address */
	uint64_t offset;  /* in the file */
	uint64_t bytes;
	const unsigned char *code;
};

/* Maps the file at path and checks that it is a Go program with a symbol table. name stands for
 * it in messages and must outlive it. Returns 0, FAIL_NO_PROCESS (the file is a /proc/PID/exe
 * that went away), FAIL_NO_PERMISSION, FAIL_NOT_GO or FAIL_STRIPPED (line printed). */
int binary_open(const char *path, const char *name, struct binary *binary);

/* Finds the body of a function. Returns 0 or FAIL_NOT_GO (line printed). */
int binary_function(const struct binary *binary, const char *symbol, struct function *function);

void binary_close(struct binary *binary);

#endif
