/* SPDX-License-Identifier: Apache-2.0 */
/* The probe sites: where in the file, and what each is for. */
#ifndef GOTRACE_SITES_H
#define GOTRACE_SITES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "binary.h"
#include "shared.h"

/* Where the probe of a site runs. */
enum placement {
	PLACED_KERNEL,
	PLACED_USERSPACE, /* in the userspace part: see userspace.h */
	PLACED_NOWHERE,	  /* untouched */
	PLACEMENT_COUNT,
};

struct site {
	const char *name;   /* casgstatus, tls_write, tls_write_ret, tls_read, tls_read_ret */
	const char *symbol; /* of the function it lies in */
	const char *at;	    /* entry or ret */
	enum site_kind kind;
	enum placement placement;
	uint64_t offset;  /* in the file */
	uint64_t address; /* ELF virtual address */
};

struct sites {
	struct site list[SITE_LIMIT];
	size_t count;
};

/* The word for a placement, as in the output. */
const char *placement_name(enum placement placement);

/* The names of the kinds of sites, by kind. */
extern const char *const site_kind_names[SITE_KIND_COUNT];

/* Whether sites of this kind are RET instructions, not entries of functions. */
bool site_kind_is_ret(enum site_kind kind);

/* Finds every site of the probe set and places each as its kind is. Returns 0 or FAIL_NOT_GO (line
 * printed). */
int sites_find(const struct binary *binary, const enum placement *placements, struct sites *sites);

/* How many sites have a placement. */
size_t sites_placed(const struct sites *sites, enum placement placement);

#endif
