// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "attach.h"
#include "binary.h"
#include "fail.h"
#include "moment.h"
#include "options.h"
#include "output.h"
#include "part.h"
#include "sites.h"
#include "target.h"
#include "tracer.h"
#include "userspace.h"

const char program_name[] = "gotrace";

static const char target_exited_reason[] = "target exited";
static const char userspace_failed_reason[] = "userspace part failed";

enum {
	/* Events below the kernel's wakeup threshold wait at most this long. */
	DRAIN_INTERVAL_MS = 100,
	/* How long the end line waits for a reader that takes nothing. */
	FINISH_TIMEOUT_MS = 1000,
};

/* All that belongs to one run. Static: several hundred sites with their links are no load for a
 * stack. */
static struct {
	struct options options;
	struct target target;
	struct binary binary;
	struct sites sites;
	struct tracer tracer;
	struct attachment attachment;
	struct userspace userspace;
	struct counts counts;
} run = {.userspace = USERSPACE_NONE};

/* Signals are read in the main loop and nowhere interrupt what is being done. */
static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Returns 0 or FAIL_USERSPACE. */
static int read_counts(bool last)
{
	tracer_drain(&run.tracer);
	tracer_counts(&run.tracer, run.sites.count, &run.counts);
	return userspace_counts(&run.userspace, &run.sites, last, &run.counts);
}

/* Answers the signals that have come. Returns why to end, or NULL to go on. */
static const char *handle_signals(int signal_fd)
{
	struct signalfd_siginfo info;

	while (read(signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGTERM)
			return "SIGTERM";
		if (info.ssi_signo == SIGINT)
			return "SIGINT";
		if (read_counts(false))
			return userspace_failed_reason;
		output_counters(&run.sites, &run.counts);
	}
	return NULL;
}

/* Traces until there is a reason to end, and returns it. */
static const char *trace(int signal_fd)
{
	enum { SIGNALS, TARGET, EVENTS, USERSPACE, STDOUT, COUNT };
	struct pollfd waits[COUNT] = {
	    [SIGNALS] = {.fd = signal_fd, .events = POLLIN},
	    [TARGET] = {.fd = run.target.pidfd, .events = POLLIN},
	    [EVENTS] = {.fd = tracer_event_fd(&run.tracer), .events = POLLIN},
	    [USERSPACE] = {.fd = run.userspace.child.log, .events = POLLIN},
	    [STDOUT] = {.fd = -1, .events = POLLOUT},
	};

	for (;;) {
		const char *reason = handle_signals(signal_fd);

		if (reason)
			return reason;
		if (waits[TARGET].revents)
			return target_exited_reason;
		if (waits[USERSPACE].revents && !userspace_listen(&run.userspace))
			return userspace_failed_reason;
		waits[STDOUT].fd = output_waiting() ? STDOUT_FILENO : -1;
		poll(waits, COUNT, DRAIN_INTERVAL_MS);
		tracer_drain(&run.tracer);
		output_flush();
	}
}

static int trace_and_end(int signal_fd)
{
	const char *reason = trace(signal_fd);
	double start_ms = now_ms();

	attach_undo(&run.attachment);
	/* After the probes are out: so these are the last hits and the last events. */
	if (reason == userspace_failed_reason || read_counts(true))
		return userspace_failure(&run.userspace);
	userspace_stop(&run.userspace);
	output_end(&run.sites, &run.counts, reason, now_ms() - start_ms);
	output_finish(FINISH_TIMEOUT_MS);
	if (reason != target_exited_reason)
		return 0;
	return fail(FAIL_TARGET_EXITED,
		    "process %d exited while it was traced: see what ended it, start it again",
		    run.target.pid);
}

/* The kernel's probes come first: a runtime that patches code takes copies of its pages, in which
 * the kernel would set none. */
static int attach_both(enum attach_mode mode)
{
	int code = attach_all(mode, &run.target, &run.sites, &run.tracer, &run.attachment);

	if (code)
		return code;
	code = userspace_start(&run.options, &run.target, &run.binary, &run.sites, &run.userspace);
	if (code && code != ATTACH_INTERRUPTED)
		attach_undo(&run.attachment);
	return code;
}

static int attach_and_trace(int signal_fd, enum attach_mode mode)
{
	int code = attach_both(mode);

	if (code != 0 && code != ATTACH_INTERRUPTED)
		return code;
	if (code == 0) {
		output_attached(&run.options, &run.target, &run.sites, &run.attachment,
				&run.userspace);
		fail_cause = NULL;
	}
	return trace_and_end(signal_fd);
}

static int load_and_trace(int signal_fd)
{
	enum attach_mode mode = attach_resolve(run.options.attach);
	int code = tracer_load(&run.options, mode, &run.target, &run.binary, &run.tracer);

	if (code)
		return code;
	code = attach_and_trace(signal_fd, mode);
	tracer_unload(&run.tracer);
	return code;
}

/* Whatever failed before the probes were in: if the process is gone, that is the cause. */
static int cause_of_failure(int code, char *message, size_t size)
{
	if (code == FAIL_TARGET_EXITED || !target_exits(&run.target))
		return code;
	snprintf(message, size, "process %d exited before it was traced: start it again",
		 run.target.pid);
	return FAIL_NO_PROCESS;
}

static int open_and_trace(int signal_fd)
{
	int code = target_open(run.options.pid, &run.target);

	if (code)
		return code;
	fail_cause = cause_of_failure;
	code = binary_open(run.target.exe_link, run.target.exe, &run.binary);
	if (!code) {
		code = sites_find(&run.binary, run.options.placements, &run.sites);
		if (!code)
			code = load_and_trace(signal_fd);
		binary_close(&run.binary);
	}
	fail_cause = NULL;
	target_close(&run.target);
	return code;
}

int main(int argc, char **argv)
{
	/* First of all: from here on, a signal ends gotrace in order. */
	int signal_fd = open_signals();
	int code;

	if (argc == 2 && !strcmp(argv[1], PART_ARGUMENT))
		return part_run(CHILD_CHANNEL);
	code = options_parse(argc, argv, &run.options);

	if (code)
		return code < 0 ? 0 : code;
	if (signal_fd < 0)
		return fail(
		    FAIL_ATTACH,
		    "cannot wait for signals (%s): raise the limit of open files (ulimit -n)",
		    strerror(errno));
	return open_and_trace(signal_fd);
}
