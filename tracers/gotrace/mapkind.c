// SPDX-License-Identifier: Apache-2.0
#include "mapkind.h"

#include <string.h>

const char *map_kind_name(enum map_kind kind)
{
	static const char *const names[MAP_KIND_COUNT] = {
	    [MAP_KIND_ARRAY] = "array",
	    [MAP_KIND_HASH] = "hash",
	    [MAP_KIND_PERCPU_ARRAY] = "percpu-array",
	    [MAP_KIND_PERCPU_HASH] = "percpu-hash",
	};

	return names[kind];
}

int map_kind_parse(const char *text, enum map_kind *kind)
{
	for (enum map_kind known = 0; known < MAP_KIND_COUNT; known++) {
		if (!strcmp(text, map_kind_name(known))) {
			*kind = known;
			return 0;
		}
	}
	return -1;
}
