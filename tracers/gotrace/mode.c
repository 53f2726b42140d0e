// SPDX-License-Identifier: Apache-2.0
#include "mode.h"

#include <string.h>

const char *attach_name(enum attach_mode mode)
{
	static const char *const names[] = {
	    [ATTACH_AUTO] = "auto",
	    [ATTACH_UPROBE_MULTI] = "uprobe_multi",
	    [ATTACH_PERF_EVENT] = "perf_event",
	    [ATTACH_NONE] = "none",
	};

	return names[mode];
}

int attach_parse(const char *text, enum attach_mode *mode)
{
	for (enum attach_mode known = ATTACH_AUTO; known <= ATTACH_PERF_EVENT; known++) {
		if (!strcmp(text, attach_name(known))) {
			*mode = known;
			return 0;
		}
	}
	return -1;
}
