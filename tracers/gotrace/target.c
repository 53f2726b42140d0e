// SPDX-License-Identifier: Apache-2.0
#include "target.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fail.h"

enum { EXIT_GRACE_MS = 300 };

static int unreachable(pid_t pid, int error)
{
	if (error == EACCES || error == EPERM)
		return fail(FAIL_NO_PERMISSION,
			    "no permission to look at process %d: run as root or as its owner",
			    pid);
	return fail(FAIL_NO_PROCESS, "no process %d (%s): start it first", pid, strerror(error));
}

/* The last number of the line "NSpid:": the id in the innermost namespace. */
static int read_innermost_pid(pid_t pid, uint32_t *innermost)
{
	char path[32], line[512];
	bool found = false;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	status = fopen(path, "re");
	if (!status)
		return unreachable(pid, errno);
	while (!found && fgets(line, sizeof(line), status)) {
		const char *last = strrchr(line, '\t');

		found = !strncmp(line, "NSpid:", 6) && last && sscanf(last, "%u", innermost) == 1;
	}
	fclose(status);
	return found ? 0 : unreachable(pid, ESRCH);
}

static int read_pid_namespace(pid_t pid, struct target *target)
{
	struct stat namespace;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	if (stat(path, &namespace))
		return unreachable(pid, errno);
	/* The kernel compares with its own encoding of a device number, not with user space's. */
	target->pidns_device = (uint64_t)major(namespace.st_dev) << 20 | minor(namespace.st_dev);
	target->pidns_inode = namespace.st_ino;
	return read_innermost_pid(pid, &target->pidns_pid);
}

int target_open(pid_t pid, struct target *target)
{
	ssize_t length;
	int code;

	memset(target, 0, sizeof(*target));
	target->pid = pid;
	target->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (target->pidfd < 0)
		return unreachable(pid, errno == EINVAL ? ESRCH : errno);
	snprintf(target->exe_link, sizeof(target->exe_link), "/proc/%d/exe", pid);
	length = readlink(target->exe_link, target->exe, sizeof(target->exe) - 1);
	if (length >= 0)
		code = read_pid_namespace(pid, target);
	else if (errno == ENOENT && !target_exits(target))
		code = fail(FAIL_NOT_GO, "process %d is a kernel thread: trace a Go program", pid);
	else
		code = unreachable(pid, errno);
	if (code)
		target_close(target);
	return code;
}

bool target_exited(const struct target *target)
{
	struct pollfd exited = {.fd = target->pidfd, .events = POLLIN};

	return poll(&exited, 1, 0) > 0;
}

bool target_exits(const struct target *target)
{
	struct pollfd exited = {.fd = target->pidfd, .events = POLLIN};

	return poll(&exited, 1, EXIT_GRACE_MS) > 0;
}

void target_close(struct target *target)
{
	close(target->pidfd);
	target->pidfd = -1;
}
