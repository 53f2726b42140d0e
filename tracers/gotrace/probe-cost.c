// SPDX-License-Identifier: Apache-2.0
/* Measures what one hit of a kernel uprobe costs on this host, by class of the probed
 * instruction, on functions of its own. */
#include "probe-cost.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fail.h"
#include "mode.h"
#include "probe-cost.skel.h"
#include "uprobe_multi.h"

const char program_name[] = "probe-cost";

enum {
	/* The median of many short slices: one that was disturbed does not count. */
	SLICE_COUNT = 45,
	SLICE_NS = 2 * 1000 * 1000,
	WARM_UP_CALLS = 300,
	/* A call without a probe takes nanoseconds: this many give a steady mean. */
	UNPROBED_CALLS = 100000,
	CALLS_LIMIT = 100 * 1000 * 1000,
};

void call_repeatedly(void (*function)(void), unsigned long calls);
void code_emulated(void);
void code_nop5(void);
void code_single_stepped(void);
void code_return(void);
extern const unsigned char site_emulated[], site_nop5[], site_single_stepped[], site_return[];

static const struct {
	const char *name;
	void (*function)(void);
	const unsigned char *site;
	unsigned int instruction_bytes;
} classes[CLASS_COUNT] = {
    [CLASS_EMULATED] = {"emulated", code_emulated, site_emulated, 1},
    [CLASS_NOP5] = {"nop5", code_nop5, site_nop5, 5},
    [CLASS_SINGLE_STEPPED] = {"single-stepped", code_single_stepped, site_single_stepped, 4},
    [CLASS_RETURN] = {"return", code_return, site_return, 1},
};

struct result {
	/* Before the probe is in: its breakpoint would show here. */
	char instruction[16];
	double unprobed_ns;
	double ns_per_hit;
	uint64_t hits;
	uint64_t calls;
	char error[160];
};

struct probes {
	struct probe_cost_bpf *bpf;
	enum attach_mode mode;
	int multi_fds[CLASS_COUNT]; /* each at its first class, or -1 */
	struct bpf_link *links[CLASS_COUNT];
};

/* This thread's CPU time, kernel included: a probe is paid for by the thread that hits it, and what
 * other processes take meanwhile is not its cost. */
static uint64_t cpu_time_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static double ns_per_call(enum instruction_class which, unsigned long calls)
{
	uint64_t start_ns = cpu_time_ns();

	call_repeatedly(classes[which].function, calls);
	return (double)(cpu_time_ns() - start_ns) / (double)calls;
}

static int compare_doubles(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return (a > b) - (a < b);
}

static double median(double *values, size_t count)
{
	qsort(values, count, sizeof(*values), compare_doubles);
	return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static void measure_unprobed(enum instruction_class which, struct result *result)
{
	double values[SLICE_COUNT];

	for (unsigned int index = 0; index < classes[which].instruction_bytes; index++)
		sprintf(result->instruction + 2 * index, "%02x", classes[which].site[index]);
	ns_per_call(which, WARM_UP_CALLS);
	for (size_t slice = 0; slice < SLICE_COUNT; slice++)
		values[slice] = ns_per_call(which, UNPROBED_CALLS / SLICE_COUNT);
	result->unprobed_ns = median(values, SLICE_COUNT);
}

static void measure_probed(const struct probes *probes, enum instruction_class which,
			   unsigned long wanted_calls, struct result *result)
{
	/* The program writes here: the map lies in our memory. */
	volatile __u64 *counted = &probes->bpf->bss->hits[which];
	uint64_t hits_before = *counted;
	double values[SLICE_COUNT];
	double first_ns = ns_per_call(which, WARM_UP_CALLS);
	unsigned long calls =
	    wanted_calls ? wanted_calls / SLICE_COUNT : (unsigned long)(SLICE_NS / first_ns);

	calls = calls ? calls : 1;
	for (size_t slice = 0; slice < SLICE_COUNT; slice++)
		values[slice] = ns_per_call(which, calls);
	result->calls = WARM_UP_CALLS + SLICE_COUNT * calls;
	result->hits = *counted - hits_before;
	result->ns_per_hit = median(values, SLICE_COUNT) - result->unprobed_ns;
	if (result->hits != result->calls)
		snprintf(result->error, sizeof(result->error),
			 "%" PRIu64 " hits counted for %" PRIu64 " calls", result->hits,
			 result->calls);
}

/* Where the code lies in the file this process runs, by its own memory map. */
static int file_offset(const unsigned char *address, uint64_t *offset)
{
	unsigned long start, end, at;
	bool found = false;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "re");

	if (!maps)
		return -1;
	while (!found && fgets(line, sizeof(line), maps)) {
		found = sscanf(line, "%lx-%lx %*s %lx", &start, &end, &at) == 3 &&
			(unsigned long)address >= start && (unsigned long)address < end;
	}
	fclose(maps);
	*offset = (unsigned long)address - start + at;
	return found ? 0 : -1;
}

/* Puts one link on count classes from first on. */
static int attach_multi(struct probes *probes, int first, int count, const uint64_t *offsets)
{
	static const uint64_t cookies[CLASS_COUNT] = {0, 1, 2, 3};

	probes->multi_fds[first] =
	    uprobe_multi_attach(bpf_program__fd(probes->bpf->progs.count_hit), "/proc/self/exe",
				offsets + first, cookies + first, (uint32_t)count, getpid());
	return probes->multi_fds[first] < 0 ? -errno : 0;
}

static int attach_perf_event(struct probes *probes, enum instruction_class which, uint64_t offset)
{
	LIBBPF_OPTS(bpf_uprobe_opts, options, .bpf_cookie = which);

	probes->links[which] = bpf_program__attach_uprobe_opts(
	    probes->bpf->progs.count_hit, getpid(), "/proc/self/exe", offset, &options);
	return probes->links[which] ? 0 : -errno;
}

/* Attaches to every class; a class that cannot be has its error set. */
static void attach(struct probes *probes, struct result *results)
{
	uint64_t offsets[CLASS_COUNT] = {0};
	bool multi = probes->mode == ATTACH_UPROBE_MULTI;

	for (int which = 0; which < CLASS_COUNT; which++)
		if (file_offset(classes[which].site, &offsets[which]))
			snprintf(results[which].error, sizeof(results[which].error),
				 "its place in /proc/self/maps was not found");
	/* One link for all comes out in one go; where one class spoils it, each gets its own. */
	if (multi && !attach_multi(probes, 0, CLASS_COUNT, offsets))
		return;
	for (int which = 0; which < CLASS_COUNT; which++) {
		int error = multi ? attach_multi(probes, which, 1, offsets)
				  : attach_perf_event(probes, which, offsets[which]);

		if (error && !results[which].error[0])
			snprintf(results[which].error, sizeof(results[which].error),
				 "not attached: %s", strerror(-error));
	}
}

static void detach(struct probes *probes)
{
	for (int which = 0; which < CLASS_COUNT; which++) {
		if (probes->multi_fds[which] >= 0)
			close(probes->multi_fds[which]);
		bpf_link__destroy(probes->links[which]);
	}
	probe_cost_bpf__destroy(probes->bpf);
}

static int no_messages(enum libbpf_print_level level, const char *format, va_list arguments)
{
	(void)level;
	(void)format;
	(void)arguments;
	return 0;
}

static int load(struct probes *probes)
{
	int error;

	libbpf_set_print(no_messages);
	if (probes->mode == ATTACH_AUTO)
		probes->mode = uprobe_multi_supported() ? ATTACH_UPROBE_MULTI : ATTACH_PERF_EVENT;
	probes->bpf = probe_cost_bpf__open();
	if (!probes->bpf)
		return fail(FAIL_LOAD, "cannot open the BPF program (%s): build it on this host",
			    strerror(errno));
	if (probes->mode == ATTACH_UPROBE_MULTI)
		bpf_program__set_expected_attach_type(
		    probes->bpf->progs.count_hit, (enum bpf_attach_type)UPROBE_MULTI_ATTACH_TYPE);
	error = probe_cost_bpf__load(probes->bpf);
	if (error == -EPERM)
		return fail(FAIL_NO_PERMISSION,
			    "no permission to load BPF programs: run as root or with CAP_BPF and "
			    "CAP_PERFMON");
	if (error)
		return fail(
		    FAIL_LOAD,
		    "the kernel refused the BPF program (%s): Linux 5.15 or newer is needed",
		    strerror(-error));
	return 0;
}

static void print_result(const struct probes *probes, enum instruction_class which,
			 const struct result *result)
{
	printf("{\"class\":\"%s\",\"instruction\":\"%s\",\"ns_per_hit\":", classes[which].name,
	       result->instruction);
	if (result->error[0])
		printf("null");
	else
		printf("%.1f", result->ns_per_hit);
	printf(",\"hits\":%" PRIu64 ",\"calls\":%" PRIu64 ",\"attach\":\"%s\",\"error\":",
	       result->hits, result->calls, attach_name(probes->mode));
	if (result->error[0])
		printf("\"%s\"}\n", result->error);
	else
		printf("null}\n");
}

/* Returns 0 when at least one class could be measured. */
static int measure(struct probes *probes, unsigned long wanted_calls)
{
	struct result results[CLASS_COUNT] = {0};
	int measured = 0;

	for (int which = 0; which < CLASS_COUNT; which++)
		measure_unprobed(which, &results[which]);
	attach(probes, results);
	for (int which = 0; which < CLASS_COUNT; which++) {
		if (!results[which].error[0])
			measure_probed(probes, which, wanted_calls, &results[which]);
		measured += !results[which].error[0];
		print_result(probes, which, &results[which]);
	}
	if (measured)
		return 0;
	return fail(FAIL_ATTACH, "no class could be measured: see the errors above");
}

static int parse(int argc, char **argv, unsigned long *calls, enum attach_mode *mode)
{
	enum { HITS = 1, ATTACH, HELP };
	static const struct option known[] = {
	    {"hits", required_argument, NULL, HITS},
	    {"attach", required_argument, NULL, ATTACH},
	    {"help", no_argument, NULL, HELP},
	    {NULL, 0, NULL, 0},
	};
	char *end;
	int option;

	opterr = 0;
	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case HITS:
			*calls = strtoul(optarg, &end, 10);
			if (*end || !*calls || *calls > CALLS_LIMIT)
				return fail(FAIL_USAGE, "--hits '%s' is not a count: give 1 to %d",
					    optarg, CALLS_LIMIT);
			break;
		case ATTACH:
			if (attach_parse(optarg, mode))
				return fail(FAIL_USAGE,
					    "--attach '%s' is unknown: give auto, uprobe_multi or "
					    "perf_event",
					    optarg);
			break;
		case HELP:
			puts(
			    "usage: probe-cost [--hits N] [--attach auto|uprobe_multi|perf_event]\n"
			    "\n"
			    "Prints one JSON line per class of probed instruction: the median cost "
			    "of\n"
			    "a kernel uprobe hit in nanoseconds. --hits N: calls per class "
			    "(default:\n"
			    "as many as fit into 0.1 s).");
			return -1;
		default:
			return fail(FAIL_USAGE, "unknown or incomplete option %s: see --help",
				    argv[optind - 1]);
		}
	}
	if (optind < argc)
		return fail(FAIL_USAGE, "unexpected argument '%s': see --help", argv[optind]);
	return 0;
}

int main(int argc, char **argv)
{
	struct probes probes = {.multi_fds = {-1, -1, -1, -1}, .mode = ATTACH_AUTO};
	unsigned long calls = 0;
	int code = parse(argc, argv, &calls, &probes.mode);

	if (code)
		return code < 0 ? 0 : code;
	code = load(&probes);
	if (!code)
		code = measure(&probes, calls);
	detach(&probes);
	return code;
}
