/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GOTRACE_MOMENT_H
#define GOTRACE_MOMENT_H

/* Milliseconds by a clock that never goes back. */
double now_ms(void);

#endif
