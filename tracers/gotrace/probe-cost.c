// SPDX-License-Identifier: Apache-2.0
/* Measures what one hit of a uprobe costs on this host, on functions of its own: in the kernel by
 * class of the probed instruction, or in a userspace runtime. */
#include "probe-cost.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "fail.h"
#include "mode.h"
#include "probe-cost-parts.h"
#include "probe-cost-result.h"
#include "probe-cost-timing.h"
#include "probe-cost-userspace.h"
#include "probe-cost.skel.h"
#include "uprobe_multi.h"

const char program_name[] = "probe-cost";

enum { CALLS_LIMIT = 100 * 1000 * 1000 };

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

struct probes {
	struct probe_cost_bpf *bpf;
	enum attach_mode mode;
	int multi_fds[CLASS_COUNT]; /* each at its first class, or -1 */
	struct bpf_link *links[CLASS_COUNT];
};

static void measure_unprobed(enum instruction_class which, struct result *result)
{
	for (unsigned int index = 0; index < classes[which].instruction_bytes; index++)
		sprintf(result->instruction + 2 * index, "%02x", classes[which].site[index]);
	result->unprobed_ns = timing_unprobed_ns(classes[which].function);
}

static void measure_probed(const struct probes *probes, enum instruction_class which,
			   unsigned long wanted_calls, struct result *result)
{
	/* The program writes here: the map lies in our memory. */
	volatile __u64 *counted = &probes->bpf->bss->hits[which];
	uint64_t hits_before = *counted;
	double probed_ns =
	    timing_probed_ns(classes[which].function, wanted_calls, &result->calls);

	result->hits = *counted - hits_before;
	result->ns_per_hit = probed_ns - result->unprobed_ns;
	result_check(result);
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
		if (timing_file_offset(classes[which].site, &offsets[which]))
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
	bpf_program__set_autoload(probes->bpf->progs.count_userspace_hit, false);
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

static int no_class_measured(void)
{
	fflush(stdout);
	return fail(FAIL_ATTACH, "no class could be measured: see the errors above");
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
		result_print(classes[which].name, attach_name(probes->mode), &results[which]);
	}
	return measured ? 0 : no_class_measured();
}

struct options {
	unsigned long calls; /* 0: as many as fit */
	enum attach_mode attach;
	bool userspace;
	const char *preload;
	const char *bpftime;
};

static const char help[] =
    "usage: probe-cost [--hits N] [--attach auto|uprobe_multi|perf_event]\n"
    "       probe-cost [--hits N] --userspace --preload LIBRARY --bpftime PROGRAM\n"
    "\n"
    "Prints one JSON line per class of probed instruction: the median cost of a kernel uprobe\n"
    "hit in nanoseconds; with --userspace that of a hit in bpftime, by its library\n"
    "libbpftime-syscall-server.so and its program bpftime, beside which its agent lies.\n"
    "--hits N: calls per class (default: as many as fit into 0.1 s).";

static int parse(int argc, char **argv, struct options *options)
{
	enum { HITS = 1, ATTACH, USERSPACE, PRELOAD, BPFTIME, HELP };
	static const struct option known[] = {
	    {"hits", required_argument, NULL, HITS},
	    {"attach", required_argument, NULL, ATTACH},
	    {"userspace", no_argument, NULL, USERSPACE},
	    {"preload", required_argument, NULL, PRELOAD},
	    {"bpftime", required_argument, NULL, BPFTIME},
	    {"help", no_argument, NULL, HELP},
	    {NULL, 0, NULL, 0},
	};
	char *end;
	int option;

	opterr = 0;
	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case HITS:
			options->calls = strtoul(optarg, &end, 10);
			if (*end || !options->calls || options->calls > CALLS_LIMIT)
				return fail(FAIL_USAGE, "--hits '%s' is not a count: give 1 to %d",
					    optarg, CALLS_LIMIT);
			break;
		case ATTACH:
			if (attach_parse(optarg, &options->attach))
				return fail(FAIL_USAGE,
					    "--attach '%s' is unknown: give auto, uprobe_multi or "
					    "perf_event",
					    optarg);
			break;
		case USERSPACE:
			options->userspace = true;
			break;
		case PRELOAD:
			options->preload = optarg;
			break;
		case BPFTIME:
			options->bpftime = optarg;
			break;
		case HELP:
			puts(help);
			return -1;
		default:
			return fail(FAIL_USAGE, "unknown or incomplete option %s: see --help",
				    argv[optind - 1]);
		}
	}
	if (optind < argc)
		return fail(FAIL_USAGE, "unexpected argument '%s': see --help", argv[optind]);
	if (options->userspace != (options->preload && options->bpftime) ||
	    !options->preload != !options->bpftime)
		return fail(FAIL_USAGE, "--userspace, --preload and --bpftime belong together: "
					"give all or none");
	return 0;
}

static int measure_in_kernel(const struct options *options)
{
	struct probes probes = {.multi_fds = {-1, -1, -1, -1}, .mode = options->attach};
	int code = load(&probes);

	if (!code)
		code = measure(&probes, options->calls);
	detach(&probes);
	return code;
}

static int measure_in_userspace(const struct options *options)
{
	struct result result = {0};
	int number = userspace_measure(options->preload, options->bpftime, options->calls, &result);

	if (number) {
		signal(number, SIG_DFL);
		raise(number);
	}
	result_print("userspace", "bpftime", &result);
	return result.error[0] ? no_class_measured() : 0;
}

int main(int argc, char **argv)
{
	struct options options = {.attach = ATTACH_AUTO};
	int code;

	if (argc == 2 && !strcmp(argv[1], TARGET_ARGUMENT))
		return target_run(CHILD_CHANNEL);
	if (argc == 2 && !strcmp(argv[1], LOADER_ARGUMENT))
		return loader_run(CHILD_CHANNEL);
	code = parse(argc, argv, &options);
	if (code)
		return code < 0 ? 0 : code;
	return options.userspace ? measure_in_userspace(&options) : measure_in_kernel(&options);
}
