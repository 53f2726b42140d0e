/* SPDX-License-Identifier: Apache-2.0 */
/* The probe sites: where in the file, and what each is for. */
#ifndef GOTRACE_SITES_H
#define GOTRACE_SITES_H

#include <stddef.h>
#include <stdint.h>

#include "binary.h"
#include "shared.h"

struct site {
	const char *name;   /* casgstatus, tls_write, tls_write_ret, tls_read, tls_read_ret */
	const char *symbol; /* of the function it lies in */
	const char *at;	    /* entry or ret */
	enum site_kind kind;
	uint64_t offset;  /* in the file */
	uint64_t address; /* ELF virtual address */
};

struct sites {
	struct site list[SITE_LIMIT];
	size_t count;
};

/* Finds every site of the probe set. Returns 0 or FAIL_NOT_GO (line printed). */
int sites_find(const struct binary *binary, struct sites *sites);

#endif
