// SPDX-License-Identifier: Apache-2.0
#include "attach.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"
#include "gotrace.skel.h"
#include "moment.h"
#include "uprobe_multi.h"

/* Two raw tracepoints instead of one per system call: the kernel waits 40-80 ms for each
 * tracepoint that is taken out as a perf event, and raw ones need no tracefs. */
const char *const tracepoint_names[] = {"raw_syscalls/sys_enter", "raw_syscalls/sys_exit", NULL};

/* As gotrace.bpf.c filters them. */
const char *const traced_syscalls[] = {"read",	  "write",   "close",	 "readv",
				       "writev",  "sendto",  "recvfrom", "sendmsg",
				       "recvmsg", "accept4", NULL};

bool attach_interrupted(void)
{
	sigset_t pending;

	sigpending(&pending);
	return sigismember(&pending, SIGTERM) || sigismember(&pending, SIGINT);
}

static int attach_failure(const struct target *target, const char *what, int error)
{
	if (error == ESRCH || target_exited(target))
		return fail(FAIL_NO_PROCESS,
			    "process %d exited before the probes were in: start it again",
			    target->pid);
	if (error == EPERM || error == EACCES)
		return fail(FAIL_NO_PERMISSION,
			    "no permission to attach %s: run as root or with CAP_BPF, CAP_PERFMON "
			    "and CAP_SYS_PTRACE",
			    what);
	if (error == EMFILE)
		return fail(FAIL_ATTACH,
			    "cannot attach %s (%s): raise the limit of open files (ulimit -n)",
			    what, strerror(error));
	return fail(FAIL_ATTACH,
		    "cannot attach %s (%s): try the other --attach mode, or --no-uprobes", what,
		    strerror(error));
}

static uint64_t cookie_of(const struct sites *sites, size_t index)
{
	return (uint64_t)sites->list[index].kind << 32 | index;
}

static int attach_multi(const struct target *target, const struct sites *sites,
			const struct tracer *tracer, struct attachment *attachment)
{
	uint64_t offsets[SITE_LIMIT], cookies[SITE_LIMIT];
	uint32_t count = 0;

	for (size_t index = 0; index < sites->count; index++) {
		if (sites->list[index].placement != PLACED_KERNEL)
			continue;
		offsets[count] = sites->list[index].offset;
		cookies[count++] = cookie_of(sites, index);
	}
	attachment->multi_fd =
	    uprobe_multi_attach(bpf_program__fd(tracer->bpf->progs.on_site), target->exe_link,
				offsets, cookies, count, target->pid);
	return attachment->multi_fd < 0 ? attach_failure(target, "the uprobe_multi link", errno)
					: 0;
}

static int attach_perf_events(const struct target *target, const struct sites *sites,
			      const struct tracer *tracer, struct attachment *attachment)
{
	for (size_t index = 0; index < sites->count; index++) {
		const struct site *site = &sites->list[index];
		LIBBPF_OPTS(bpf_uprobe_opts, options, .bpf_cookie = cookie_of(sites, index));

		if (site->placement != PLACED_KERNEL)
			continue;
		if (attach_interrupted())
			return ATTACH_INTERRUPTED;
		attachment->uprobes[index] =
		    bpf_program__attach_uprobe_opts(tracer->bpf->progs.on_site, target->pid,
						    target->exe_link, site->offset, &options);
		if (!attachment->uprobes[index])
			return attach_failure(target, site->name, errno);
	}
	return 0;
}

static int attach_tracepoints(const struct target *target, const struct tracer *tracer,
			      struct attachment *attachment)
{
	attachment->tracepoints[0] =
	    bpf_program__attach_raw_tracepoint(tracer->bpf->progs.on_sys_enter, "sys_enter");
	if (!attachment->tracepoints[0])
		return attach_failure(target, tracepoint_names[0], errno);
	attachment->tracepoints[1] =
	    bpf_program__attach_raw_tracepoint(tracer->bpf->progs.on_sys_exit, "sys_exit");
	return attachment->tracepoints[1] ? 0 : attach_failure(target, tracepoint_names[1], errno);
}

enum attach_mode attach_resolve(enum attach_mode wanted)
{
	if (wanted != ATTACH_AUTO)
		return wanted;
	return uprobe_multi_supported() ? ATTACH_UPROBE_MULTI : ATTACH_PERF_EVENT;
}

int attach_all(enum attach_mode mode, const struct target *target, const struct sites *sites,
	       struct tracer *tracer, struct attachment *attachment)
{
	double start_ms = now_ms();
	int code;

	memset(attachment, 0, sizeof(*attachment));
	attachment->mode = mode;
	attachment->multi_fd = -1;
	code = attach_tracepoints(target, tracer, attachment);
	if (!code && mode == ATTACH_UPROBE_MULTI)
		code = attach_multi(target, sites, tracer, attachment);
	if (!code && mode == ATTACH_PERF_EVENT)
		code = attach_perf_events(target, sites, tracer, attachment);
	if (!code && target_exited(target))
		code = attach_failure(target, "anything", ESRCH);
	attachment->attach_ms = now_ms() - start_ms;
	if (code)
		attach_undo(attachment);
	return code;
}

void attach_undo(struct attachment *attachment)
{
	if (attachment->multi_fd >= 0)
		close(attachment->multi_fd);
	attachment->multi_fd = -1;
	for (size_t index = 0; index < SITE_LIMIT; index++) {
		bpf_link__destroy(attachment->uprobes[index]);
		attachment->uprobes[index] = NULL;
	}
	for (size_t index = 0; index < TRACEPOINT_COUNT; index++) {
		bpf_link__destroy(attachment->tracepoints[index]);
		attachment->tracepoints[index] = NULL;
	}
}
