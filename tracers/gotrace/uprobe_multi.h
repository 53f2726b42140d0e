/* SPDX-License-Identifier: Apache-2.0 */
/* One kernel link for many uprobes (Linux 6.6 and newer), by the raw system call: the libbpf and
 * the kernel headers of Debian 12 are older than it. */
#ifndef GOTRACE_UPROBE_MULTI_H
#define GOTRACE_UPROBE_MULTI_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* bpf_attach_type BPF_TRACE_UPROBE_MULTI: programs must be loaded with it. */
enum { UPROBE_MULTI_ATTACH_TYPE = 48 };

/* Whether this kernel has such links, with a process filter that counts all threads: before
 * Linux 6.10 (unless fixed by a stable update) it let only the main thread through. */
bool uprobe_multi_supported(void);

/* Sets program prog_fd on count file offsets of the file at path, for process pid only. Returns
 * the descriptor of the link, or -1 with errno. */
int uprobe_multi_attach(int prog_fd, const char *path, const uint64_t *offsets,
			const uint64_t *cookies, uint32_t count, pid_t pid);

#endif
