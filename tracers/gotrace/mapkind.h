/* SPDX-License-Identifier: Apache-2.0 */
/* Where the userspace part keeps its counters and what it knows of threads and calls. */
#ifndef GOTRACE_MAPKIND_H
#define GOTRACE_MAPKIND_H

enum map_kind {
	MAP_KIND_ARRAY, /* global variables: arrays in place of hash maps, no BPF stack */
	MAP_KIND_HASH,	/* hash maps, keyed on the BPF stack */
	MAP_KIND_PERCPU_ARRAY,
	MAP_KIND_PERCPU_HASH,
	MAP_KIND_COUNT,
};

/* The word for a kind, as on the command line and in the output. */
const char *map_kind_name(enum map_kind kind);

/* Reads the word of a kind. Returns 0, or -1 for any other. */
int map_kind_parse(const char *text, enum map_kind *kind);

#endif
