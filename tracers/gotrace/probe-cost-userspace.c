// SPDX-License-Identifier: Apache-2.0
#include "probe-cost-userspace.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "child.h"
#include "fail.h"
#include "moment.h"
#include "probe-cost-parts.h"

enum {
	PART_TIMEOUT_MS = 30000,
	/* Injecting takes 0.3 to 3 s on a busy host. */
	ATTACH_TIMEOUT_MS = 60000,
	/* The agent sets its probes while and after it is being injected. */
	PATCH_TIMEOUT_MS = 10000,
	POLL_INTERVAL_MS = 5,
	SITE_BYTES = 4,
	JUMP = 0xe9,
	BREAKPOINT = 0xcc,
};

struct trial {
	const char *preload;
	const char *bpftime;
	struct child target;
	struct child loader;
	struct target_ready ready;
	struct result *result;
};

static volatile sig_atomic_t caught;

static void catch_signal(int number)
{
	caught = number;
}

static bool interrupted(void)
{
	return caught;
}

static int set_error(const struct trial *trial, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Returns -1, as a step that failed does. */
static int set_error(const struct trial *trial, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(trial->result->error, sizeof(trial->result->error), format, arguments);
	va_end(arguments);
	return -1;
}

static int start_part(const struct trial *trial, const char *argument, const char *preload,
		      struct child *child)
{
	const char *const arguments[] = {program_name, argument, NULL};
	int error = child_start("/proc/self/exe", arguments, preload, child);

	return error ? set_error(trial, "cannot start itself: %s", strerror(error)) : 0;
}

static int read_site(const struct trial *trial, unsigned char *bytes)
{
	struct iovec to = {.iov_base = bytes, .iov_len = SITE_BYTES};
	struct iovec from = {.iov_base = (void *)trial->ready.address, .iov_len = SITE_BYTES};

	return process_vm_readv(trial->target.pid, &to, 1, &from, 1, 0) == SITE_BYTES ? 0 : -1;
}

static int start_target(struct trial *trial)
{
	unsigned char bytes[SITE_BYTES];

	if (start_part(trial, TARGET_ARGUMENT, NULL, &trial->target))
		return -1;
	if (child_await(&trial->target, &trial->ready, sizeof(trial->ready), PART_TIMEOUT_MS,
			interrupted) ||
	    !trial->ready.offset || read_site(trial, bytes))
		return set_error(trial, "the target failed: %s", child_last_line(&trial->target));
	for (int index = 0; index < SITE_BYTES; index++)
		sprintf(trial->result->instruction + 2 * index, "%02x", bytes[index]);
	return 0;
}

static int start_loader(struct trial *trial)
{
	struct loader_job job = {.pid = trial->target.pid, .offset = trial->ready.offset};
	uint64_t hits;

	if (readlink("/proc/self/exe", job.exe, sizeof(job.exe) - 1) < 0)
		return set_error(trial, "cannot read /proc/self/exe: %s", strerror(errno));
	snprintf(job.preload, sizeof(job.preload), "%s", trial->preload);
	if (start_part(trial, LOADER_ARGUMENT, trial->preload, &trial->loader))
		return -1;
	child_send(&trial->loader, &job, sizeof(job));
	if (child_await(&trial->loader, &hits, sizeof(hits), PART_TIMEOUT_MS, interrupted))
		return set_error(trial, "the loader failed: %s", child_last_line(&trial->loader));
	return 0;
}

/* bpftime -i FOLDER attach PID: the folder holds the agent's library beside the program. */
static int inject(struct trial *trial)
{
	char folder[PATH_MAX], pid[16], how[32];
	double end_ms = now_ms() + ATTACH_TIMEOUT_MS;
	struct child attach;
	int error;

	snprintf(folder, sizeof(folder), "%s", trial->bpftime);
	snprintf(pid, sizeof(pid), "%d", trial->target.pid);
	error = child_start(
	    trial->bpftime,
	    (const char *const[]){trial->bpftime, "-i", dirname(folder), "attach", pid, NULL}, NULL,
	    &attach);
	if (error)
		return set_error(trial, "cannot start %s: %s", trial->bpftime, strerror(error));
	while (child_listen(&attach) && now_ms() < end_ms && !interrupted()) {
		poll(&(struct pollfd){.fd = attach.log, .events = POLLIN}, 1, POLL_INTERVAL_MS);
		child_listen(&trial->target);
	}
	child_end(&attach, how, sizeof(how));
	if (strcmp(how, "exit code 0"))
		return set_error(trial, "bpftime attach failed (%s): %s", how,
				 child_last_line(&attach));
	return 0;
}

/* bpftime attach is content with having injected its agent; what the agent did, the site's bytes
 * tell. */
static int await_jump(struct trial *trial)
{
	double end_ms = now_ms() + PATCH_TIMEOUT_MS;
	unsigned char bytes[SITE_BYTES] = {0};

	while (now_ms() < end_ms && !interrupted()) {
		child_listen(&trial->target);
		if (read_site(trial, bytes))
			return set_error(trial, "the target ended: %s",
					 child_last_line(&trial->target));
		if (bytes[0] == JUMP)
			return 0;
		if (bytes[0] == BREAKPOINT)
			return set_error(trial, "the probe was set in the kernel, not by %s",
					 trial->preload);
		poll(NULL, 0, POLL_INTERVAL_MS);
	}
	return set_error(trial, "probe site unchanged after bpftime attach: %s",
			 child_last_line(&trial->target));
}

static int measure(struct trial *trial, unsigned long wanted_calls)
{
	struct result *result = trial->result;
	struct target_done done;
	const char request = 0;

	child_send(&trial->target, &wanted_calls, sizeof(wanted_calls));
	if (child_await(&trial->target, &done, sizeof(done), PART_TIMEOUT_MS, interrupted))
		return set_error(trial, "the target failed: %s", child_last_line(&trial->target));
	child_send(&trial->loader, &request, sizeof(request));
	if (child_await(&trial->loader, &result->hits, sizeof(result->hits), PART_TIMEOUT_MS,
			interrupted))
		return set_error(trial, "the loader failed: %s", child_last_line(&trial->loader));
	result->calls = done.calls;
	result->ns_per_hit = done.probed_ns - trial->ready.unprobed_ns;
	result_check(result);
	return 0;
}

static void set_environment(char *name, size_t size)
{
	const char *given = getenv("BPFTIME_GLOBAL_SHM_NAME");

	/* Who started us may want to remove it, should we be killed. */
	if (given && *given)
		snprintf(name, size, "%s", given);
	else
		snprintf(name, size, "uplab-cost-%d", getpid());
	setenv("BPFTIME_GLOBAL_SHM_NAME", name, 1);
	/* Else it writes into the home directory, where we would not see why it failed. */
	setenv("BPFTIME_LOG_OUTPUT", "console", 0);
	/* What a process of the same number, killed long ago, may have left. */
	shm_unlink(name);
}

int userspace_measure(const char *preload, const char *bpftime, unsigned long wanted_calls,
		      struct result *result)
{
	struct trial trial = {.preload = preload,
			      .bpftime = bpftime,
			      .target = CHILD_NONE,
			      .loader = CHILD_NONE,
			      .result = result};
	char name[256], how[32];

	signal(SIGTERM, catch_signal);
	signal(SIGINT, catch_signal);
	set_environment(name, sizeof(name));
	if (!start_target(&trial) && !start_loader(&trial) && !inject(&trial) &&
	    !await_jump(&trial))
		measure(&trial, wanted_calls);
	child_end(&trial.target, how, sizeof(how));
	child_end(&trial.loader, how, sizeof(how));
	shm_unlink(name);
	return caught;
}
