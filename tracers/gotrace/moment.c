// SPDX-License-Identifier: Apache-2.0
#include "moment.h"

#include <time.h>

double now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}
