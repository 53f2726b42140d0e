/* SPDX-License-Identifier: Apache-2.0 */
/* The process to trace, held so that its id cannot pass to another one unnoticed. */
#ifndef GOTRACE_TARGET_H
#define GOTRACE_TARGET_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct target {
	pid_t pid;	    /* in our PID namespace */
	int pidfd;	    /* readable once the process has exited */
	char exe[PATH_MAX]; /* its executable, as the process's own file system names it */
	char exe_link[32];  /* /proc/PID/exe: opens the file itself, from any mount namespace */
	/* How the kernel's BPF helper tells this process: its innermost PID namespace and its id
	 * there. The process may live in a container of its own, below ours. */
	uint64_t pidns_device;
	uint64_t pidns_inode;
	uint32_t pidns_pid;
};

/* Finds the process. Returns 0, FAIL_NO_PROCESS or FAIL_NO_PERMISSION (line printed). */
int target_open(pid_t pid, struct target *target);

bool target_exited(const struct target *target);

/* Whether the process has exited or does within a moment: one that is being killed loses its
 * memory and its executable before it counts as exited. */
bool target_exits(const struct target *target);

void target_close(struct target *target);

#endif
