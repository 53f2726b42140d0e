/* SPDX-License-Identifier: Apache-2.0 */
/* What libbpf says. */
#ifndef GOTRACE_WARNING_H
#define GOTRACE_WARNING_H

/* From now on libbpf prints nothing and the first thing it warns of is kept. */
void warning_keep_first(void);

/* That warning, one line. */
const char *warning_first(void);

#endif
