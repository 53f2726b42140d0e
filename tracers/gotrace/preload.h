/* SPDX-License-Identifier: Apache-2.0 */
/* For a process that runs with a userspace runtime's library before all others. */
#ifndef GOTRACE_PRELOAD_H
#define GOTRACE_PRELOAD_H

/* Whether the dynamic linker took the library: it goes on without one that it cannot use, and all
 * would run in the kernel. Returns 0 or FAIL_USERSPACE (line printed). */
int preload_check(const char *path);

/* Removes the files in /tmp that bpftime's library has made in place of some of the kernel's, and
 * would leave there. */
void preload_remove_files(void);

#endif
