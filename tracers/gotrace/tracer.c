// SPDX-License-Identifier: Apache-2.0
#include "tracer.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fail.h"
#include "gotrace.skel.h"
#include "output.h"
#include "uprobe_multi.h"
#include "warning.h"

static const char kernel_btf[] = "/sys/kernel/btf/vmlinux";

static int load_failure(int error)
{
	char reason[128];

	if (error == EPERM)
		return fail(FAIL_NO_PERMISSION,
			    "no permission to load BPF programs: run as root or with CAP_BPF, "
			    "CAP_PERFMON and CAP_SYS_PTRACE (before Linux 5.11 also raise "
			    "RLIMIT_MEMLOCK)");
	libbpf_strerror(error, reason, sizeof(reason));
	return fail(FAIL_LOAD,
		    "the kernel refused the BPF programs (%s; %s): build gotrace on this host, "
		    "Linux 5.15 or newer",
		    reason, warning_first());
}

/* A file that was named is read here once more than needed, so that what is wrong with it is not
 * taken for the kernel's refusal of the programs. */
static int check_given_btf(const char *path)
{
	struct btf *btf = btf__parse(path, NULL);

	if (!btf)
		return fail(FAIL_NO_BTF, "%s holds no BTF: give --btf the BTF of this kernel",
			    path);
	btf__free(btf);
	return 0;
}

static int check_btf(const char *given_path)
{
	const char *path = given_path ? given_path : kernel_btf;

	if (!access(path, R_OK))
		return given_path ? check_given_btf(path) : 0;
	if (errno == EACCES || errno == EPERM)
		return fail(FAIL_NO_PERMISSION, "no permission to read %s: run as root", path);
	return fail(FAIL_NO_BTF,
		    "no BTF at %s (%s): boot a kernel with CONFIG_DEBUG_INFO_BTF=y or give --btf "
		    "FILE",
		    path, strerror(errno));
}

static int on_event(void *context, void *data, size_t bytes)
{
	struct tracer *tracer = context;

	(void)bytes;
	tracer->received++;
	if (tracer->events_to_print) {
		tracer->events_to_print--;
		output_event(data);
	}
	return 0;
}

/* Without all entries in view, a return does not know its call, or not its goroutine. */
static bool any_entry_elsewhere(const struct options *options)
{
	return options->placements[SITE_CASGSTATUS] != PLACED_KERNEL ||
	       options->placements[SITE_TLS_WRITE] != PLACED_KERNEL ||
	       options->placements[SITE_TLS_READ] != PLACED_KERNEL;
}

static void configure(struct gotrace_bpf *bpf, const struct options *options, enum attach_mode mode,
		      const struct target *target, const struct binary *binary)
{
	bpf->rodata->pidns_device = target->pidns_device;
	bpf->rodata->pidns_inode = target->pidns_inode;
	bpf->rodata->target_pid = target->pidns_pid;
	bpf->rodata->goid_offset = binary->goid_offset;
	bpf->rodata->entries_elsewhere = any_entry_elsewhere(options);
	if (mode == ATTACH_NONE)
		bpf_program__set_autoload(bpf->progs.on_site, false);
	if (mode == ATTACH_UPROBE_MULTI)
		bpf_program__set_expected_attach_type(
		    bpf->progs.on_site, (enum bpf_attach_type)UPROBE_MULTI_ATTACH_TYPE);
}

int tracer_load(const struct options *options, enum attach_mode mode, const struct target *target,
		const struct binary *binary, struct tracer *tracer)
{
	LIBBPF_OPTS(bpf_object_open_opts, open_options, .btf_custom_path = options->btf_path);
	int code, error;

	memset(tracer, 0, sizeof(*tracer));
	tracer->events_to_print = options->print_events;
	warning_keep_first();
	code = check_btf(options->btf_path);
	if (code)
		return code;
	tracer->bpf = gotrace_bpf__open_opts(&open_options);
	if (!tracer->bpf)
		return load_failure(errno);
	configure(tracer->bpf, options, mode, target, binary);
	error = gotrace_bpf__load(tracer->bpf);
	if (!error) {
		tracer->ring =
		    ring_buffer__new(bpf_map__fd(tracer->bpf->maps.events), on_event, tracer, NULL);
		error = tracer->ring ? 0 : -errno;
	}
	if (error) {
		tracer_unload(tracer);
		return load_failure(-error);
	}
	return 0;
}

int tracer_event_fd(const struct tracer *tracer)
{
	return ring_buffer__epoll_fd(tracer->ring);
}

void tracer_drain(struct tracer *tracer)
{
	ring_buffer__consume(tracer->ring);
}

static uint64_t sum_over_cpus(const struct bpf_map *map, uint32_t index, uint64_t *values,
			      int cpu_count)
{
	uint64_t sum = 0;

	if (bpf_map__lookup_elem(map, &index, sizeof(index), values,
				 (size_t)cpu_count * sizeof(*values), 0))
		return 0;
	for (int cpu = 0; cpu < cpu_count; cpu++)
		sum += values[cpu];
	return sum;
}

void tracer_counts(struct tracer *tracer, size_t site_count, struct counts *counts)
{
	int cpu_count = libbpf_num_possible_cpus();
	uint64_t values[cpu_count > 0 ? cpu_count : 1];
	const struct bpf_map *totals = tracer->bpf->maps.counters;
	struct timespec now;

	memset(counts, 0, sizeof(*counts));
	clock_gettime(CLOCK_MONOTONIC, &now);
	counts->monotonic_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	for (uint32_t site = 0; site < site_count; site++)
		counts->site_hits[site] =
		    sum_over_cpus(tracer->bpf->maps.site_hits, site, values, cpu_count);
	counts->tracepoint_hits = sum_over_cpus(totals, COUNTER_TRACEPOINT_HITS, values, cpu_count);
	counts->emitted = sum_over_cpus(totals, COUNTER_EMITTED, values, cpu_count);
	counts->lost = sum_over_cpus(totals, COUNTER_LOST, values, cpu_count);
	counts->received = tracer->received;
}

void tracer_unload(struct tracer *tracer)
{
	ring_buffer__free(tracer->ring);
	gotrace_bpf__destroy(tracer->bpf);
	tracer->ring = NULL;
	tracer->bpf = NULL;
}
