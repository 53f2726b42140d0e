// SPDX-License-Identifier: Apache-2.0
#include "probe-cost-parts.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fail.h"
#include "preload.h"
#include "probe-cost-timing.h"
#include "probe-cost.skel.h"
#include "warning.h"

void code_go_entry(void);
extern const unsigned char site_go_entry[];

int target_run(int channel)
{
	struct target_ready ready = {.address = (uintptr_t)site_go_entry};
	unsigned long wanted_calls;
	struct target_done done;

	ready.unprobed_ns = timing_unprobed_ns(code_go_entry);
	if (timing_file_offset(site_go_entry, &ready.offset))
		ready.offset = 0;
	send(channel, &ready, sizeof(ready), MSG_NOSIGNAL);
	if (recv(channel, &wanted_calls, sizeof(wanted_calls), 0) != sizeof(wanted_calls))
		return 0;
	done.probed_ns = timing_probed_ns(code_go_entry, wanted_calls, &done.calls);
	send(channel, &done, sizeof(done), MSG_NOSIGNAL);
	/* Stays until it is ended: the probes of a runtime do not survive an orderly exit. */
	return (int)recv(channel, &wanted_calls, sizeof(wanted_calls), 0);
}

static int load(const struct loader_job *job, struct probe_cost_bpf **bpf)
{
	warning_keep_first();
	*bpf = probe_cost_bpf__open();
	if (!*bpf)
		return fail(FAIL_LOAD, "cannot open the BPF program (%s): build it on this host",
			    strerror(errno));
	bpf_program__set_autoload((*bpf)->progs.count_hit, false);
	if (probe_cost_bpf__load(*bpf))
		return fail(FAIL_LOAD, "the BPF program was refused (%s): see the runtime's log",
			    warning_first());
	if (!bpf_program__attach_uprobe((*bpf)->progs.count_userspace_hit, false, job->pid,
					job->exe, job->offset))
		return fail(FAIL_ATTACH, "cannot attach (%s): see the runtime's log",
			    strerror(errno));
	return 0;
}

/* Reports the hits, at once and on each request, until nobody wants to know. */
static void report_hits(const struct probe_cost_bpf *bpf, int channel)
{
	uint64_t hits;
	char request;

	do
		hits = *(volatile __u64 *)&bpf->bss->userspace_hits;
	while (send(channel, &hits, sizeof(hits), MSG_NOSIGNAL) == sizeof(hits) &&
	       recv(channel, &request, sizeof(request), 0) == sizeof(request));
}

int loader_run(int channel)
{
	struct probe_cost_bpf *bpf;
	struct loader_job job;
	int code;

	if (recv(channel, &job, sizeof(job), 0) != sizeof(job))
		return fail(FAIL_USAGE, "%s is for probe-cost's own use: give --userspace",
			    LOADER_ARGUMENT);
	code = preload_check(job.preload);
	if (!code)
		code = load(&job, &bpf);
	preload_remove_files();
	if (!code)
		report_hits(bpf, channel);
	/* No destructor and nothing closed: the program may run on in the target. */
	_exit(code);
}
