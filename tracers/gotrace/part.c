// SPDX-License-Identifier: Apache-2.0
#include "part.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fail.h"
#include "gotrace-user.skel.h"
#include "preload.h"
#include "sites.h"
#include "warning.h"

struct part {
	struct part_job job;
	struct gotrace_user_bpf *bpf;
	struct bpf_link *links[SITE_KIND_COUNT];
};

/* The program for a kind of site under a kind of map, or NULL where there is none. */
static struct bpf_program *program_for(const struct part *part, enum map_kind map_kind,
				       enum site_kind kind)
{
	struct bpf_program *const programs[MAP_KIND_COUNT][SITE_KIND_COUNT] = {
	    [MAP_KIND_ARRAY] = {[SITE_CASGSTATUS] = part->bpf->progs.array_casgstatus,
				[SITE_TLS_WRITE] = part->bpf->progs.array_tls_write,
				[SITE_TLS_READ] = part->bpf->progs.array_tls_read},
	    [MAP_KIND_HASH] = {[SITE_CASGSTATUS] = part->bpf->progs.hash_casgstatus,
			       [SITE_TLS_WRITE] = part->bpf->progs.hash_tls_write,
			       [SITE_TLS_READ] = part->bpf->progs.hash_tls_read},
	    [MAP_KIND_PERCPU_ARRAY] = {[SITE_CASGSTATUS] =
					   part->bpf->progs.percpu_array_casgstatus,
				       [SITE_TLS_WRITE] = part->bpf->progs.percpu_array_tls_write,
				       [SITE_TLS_READ] = part->bpf->progs.percpu_array_tls_read},
	    [MAP_KIND_PERCPU_HASH] = {[SITE_CASGSTATUS] = part->bpf->progs.percpu_hash_casgstatus,
				      [SITE_TLS_WRITE] = part->bpf->progs.percpu_hash_tls_write,
				      [SITE_TLS_READ] = part->bpf->progs.percpu_hash_tls_read},
	};

	return programs[map_kind][kind];
}

/* The map with the hits; NULL for the kinds that count in a variable. */
static struct bpf_map *hits_map(const struct part *part)
{
	switch (part->job.map_kind) {
	case MAP_KIND_HASH:
		return part->bpf->maps.h_hits;
	case MAP_KIND_PERCPU_ARRAY:
		return part->bpf->maps.pa_hits;
	default:
		return NULL;
	}
}

/* Leaves only the programs that are wanted and the maps that they use. */
static void choose(struct part *part)
{
	const struct {
		struct bpf_map *map;
		enum map_kind kind;
	} maps[] = {
	    {part->bpf->maps.h_hits, MAP_KIND_HASH},
	    {part->bpf->maps.h_goroutines, MAP_KIND_HASH},
	    {part->bpf->maps.h_calls, MAP_KIND_HASH},
	    {part->bpf->maps.pa_hits, MAP_KIND_PERCPU_ARRAY},
	    {part->bpf->maps.pa_states, MAP_KIND_PERCPU_ARRAY},
	    {part->bpf->maps.ph_goroutines, MAP_KIND_PERCPU_HASH},
	    {part->bpf->maps.ph_calls, MAP_KIND_PERCPU_HASH},
	};

	for (size_t index = 0; index < sizeof(maps) / sizeof(maps[0]); index++)
		bpf_map__set_autocreate(maps[index].map, maps[index].kind == part->job.map_kind);
	for (enum map_kind map_kind = 0; map_kind < MAP_KIND_COUNT; map_kind++) {
		for (enum site_kind kind = 0; kind < SITE_KIND_COUNT; kind++) {
			struct bpf_program *program = program_for(part, map_kind, kind);

			if (program)
				bpf_program__set_autoload(program, map_kind == part->job.map_kind &&
								       part->job.offsets[kind]);
		}
	}
}

/* Makes the entries of hash kinds; the other kinds have them already. */
static int make_entries(const struct part *part)
{
	uint64_t zeros[libbpf_num_possible_cpus()];
	struct bpf_map *map = hits_map(part);

	memset(zeros, 0, sizeof(zeros));
	for (uint32_t kind = 0; map && kind < SITE_KIND_COUNT; kind++)
		if (bpf_map_update_elem(bpf_map__fd(map), &kind, zeros, BPF_ANY))
			return -errno;
	return 0;
}

static int load(struct part *part)
{
	int error;

	warning_keep_first();
	part->bpf = gotrace_user_bpf__open();
	if (!part->bpf)
		return fail(FAIL_USERSPACE, "cannot open the programs (%s): build gotrace anew",
			    strerror(errno));
	part->bpf->rodata->goid_offset = part->job.goid_offset;
	choose(part);
	error = gotrace_user_bpf__load(part->bpf);
	if (!error)
		error = make_entries(part);
	if (error)
		return fail(FAIL_USERSPACE,
			    "its programs were refused (%s; %s): try --map-kind array",
			    strerror(-error), warning_first());
	return 0;
}

static int attach(struct part *part)
{
	for (enum site_kind kind = 0; kind < SITE_KIND_COUNT; kind++) {
		if (!part->job.offsets[kind])
			continue;
		part->links[kind] = bpf_program__attach_uprobe(
		    program_for(part, part->job.map_kind, kind), false, part->job.pid,
		    part->job.exe, part->job.offsets[kind]);
		if (!part->links[kind])
			return fail(FAIL_USERSPACE, "cannot attach %s (%s): see dmesg",
				    site_kind_names[kind], strerror(errno));
	}
	return 0;
}

/* Over all CPUs. A userspace runtime may know fewer than the kernel: the rest stays 0. */
static uint64_t sum_over_cpus(const struct bpf_map *map, uint32_t kind)
{
	int cpu_count = libbpf_num_possible_cpus();
	uint64_t values[cpu_count], sum = 0;

	memset(values, 0, sizeof(values));
	bpf_map_lookup_elem(bpf_map__fd(map), &kind, values);
	for (int cpu = 0; cpu < cpu_count; cpu++)
		sum += values[cpu];
	return sum;
}

static int report(const struct part *part, int channel)
{
	const struct bpf_map *map = hits_map(part);
	struct part_report report;

	for (uint32_t kind = 0; kind < SITE_KIND_COUNT; kind++)
		report.hits[kind] = map ? sum_over_cpus(map, kind)
					: *(volatile __u64 *)&part->bpf->bss->hits[kind];
	return send(channel, &report, sizeof(report), MSG_NOSIGNAL) == sizeof(report) ? 0 : -1;
}

/* Under a userspace runtime the programs run on in the traced process, on maps that closing would
 * take from under them: taking the probes out is then the runtime's affair. */
static void take_out(struct part *part)
{
	for (enum site_kind kind = 0; kind < SITE_KIND_COUNT && !part->job.preload[0]; kind++)
		bpf_link__destroy(part->links[kind]);
}

/* Answers until gotrace has enough or is gone. */
static void answer(struct part *part, int channel)
{
	enum part_request request = PART_COUNT;

	while (request != PART_COUNT_LAST &&
	       recv(channel, &request, sizeof(request), 0) == sizeof(request)) {
		if (request == PART_COUNT_LAST)
			take_out(part);
		if (report(part, channel))
			break;
	}
}

int part_run(int channel)
{
	static struct part part;
	int code;

	prctl(PR_SET_NAME, "gotrace");
	if (recv(channel, &part.job, sizeof(part.job), 0) != sizeof(part.job))
		return fail(FAIL_USAGE, "%s is for gotrace's own use: give --userspace",
			    PART_ARGUMENT);
	code = part.job.preload[0] ? preload_check(part.job.preload) : 0;
	if (!code)
		code = load(&part);
	if (!code)
		code = attach(&part);
	if (part.job.preload[0])
		preload_remove_files();
	if (!code && !report(&part, channel))
		answer(&part, channel);
	/* Nothing is closed and no destructor of a runtime runs: see take_out. */
	_exit(code);
}
