// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"

static const char help[] =
    "usage: gotrace --pid PID [options]\n"
    "\n"
    "Traces one Go process (x86-64, Go 1.18 or newer): uprobes on runtime.casgstatus and on the\n"
    "entries and RET instructions of crypto/tls.(*Conn).Read and Write, and system call\n"
    "tracepoints. Prints JSON lines: attached, counters (on SIGUSR1), end (SIGTERM, SIGINT or\n"
    "when the process exits).\n"
    "\n"
    "  --pid PID          the process, as numbered in gotrace's own PID namespace\n"
    "  --no-uprobes       tracepoints only; the probe sites are listed but left untouched\n"
    "  --attach MODE      auto (default), uprobe_multi or perf_event\n"
    "  --userspace SITES  probe these entries from a part of its own (see README.md)\n"
    "  --kernel SITES     probe these in the kernel; with --userspace or --kernel given, a site\n"
    "                     in neither list is left untouched (default: all in the kernel)\n"
    "  --preload LIBRARY  start the userspace part with this library before all others\n"
    "  --map-kind KIND    of the userspace part: array (default), hash, percpu-array or\n"
    "                     percpu-hash\n"
    "  --print-events N   also print the first N events received (default 0)\n"
    "  --btf FILE         the kernel's BTF (default /sys/kernel/btf/vmlinux)\n"
    "  --help, --version\n"
    "\n"
    "exit codes:\n"
    "  0   ended by SIGTERM or SIGINT\n"
    "  2   wrong usage\n"
    "  10  no such process, or it exited before the probes were in\n"
    "  11  not a Go program for x86-64, or without one of the symbols\n"
    "  12  stripped: without a symbol table\n"
    "  13  no BTF of the kernel\n"
    "  14  no permission\n"
    "  15  the kernel refused the BPF programs\n"
    "  16  a probe could not be attached\n"
    "  17  the process exited while it was traced\n"
    "  18  the userspace part failed\n";

static int parse_count(const char *text, unsigned long highest, unsigned long *count)
{
	char *end;

	errno = 0;
	*count = strtoul(text, &end, 10);
	return errno || end == text || *end || *text == '-' || *count > highest ? -1 : 0;
}

static int kind_by_name(const char *name, size_t length)
{
	for (int kind = 0; kind < SITE_KIND_COUNT; kind++)
		if (strlen(site_kind_names[kind]) == length &&
		    !strncmp(name, site_kind_names[kind], length))
			return kind;
	return -1;
}

static int place(struct options *options, int kind, enum placement placement)
{
	const char *name = site_kind_names[kind];

	if (placement == PLACED_USERSPACE && site_kind_is_ret(kind))
		return fail(FAIL_USAGE,
			    "--userspace %s: a RET has one byte, too few for a jump: give it to "
			    "--kernel",
			    name);
	if (options->placements[kind] != PLACED_NOWHERE && options->placements[kind] != placement)
		return fail(FAIL_USAGE, "site %s is in --userspace and in --kernel: name it once",
			    name);
	options->placements[kind] = placement;
	return 0;
}

/* Places the sites of a list "name,name,..."; "" is the empty list. */
static int place_list(struct options *options, const char *list, enum placement placement)
{
	for (const char *name = list; *list; name += strcspn(name, ",") + 1) {
		size_t length = strcspn(name, ",");
		int kind = kind_by_name(name, length);

		if (kind < 0)
			return fail(FAIL_USAGE,
				    "no site '%.*s': give casgstatus, tls_write, tls_write_ret, "
				    "tls_read or tls_read_ret, with commas between",
				    (int)length, name);
		if (place(options, kind, placement))
			return FAIL_USAGE;
		if (!name[length])
			break;
	}
	return 0;
}

/* Fills in options->placements. A list that was not given is NULL. */
static int place_sites(struct options *options, bool no_uprobes, const char *userspace,
		       const char *kernel)
{
	bool listed = userspace || kernel;

	if (no_uprobes && listed)
		return fail(FAIL_USAGE, "--no-uprobes leaves no site to --userspace or --kernel: "
					"give the one or the others");
	for (int kind = 0; kind < SITE_KIND_COUNT; kind++)
		options->placements[kind] = no_uprobes || listed ? PLACED_NOWHERE : PLACED_KERNEL;
	if (userspace && place_list(options, userspace, PLACED_USERSPACE))
		return FAIL_USAGE;
	if (kernel && place_list(options, kernel, PLACED_KERNEL))
		return FAIL_USAGE;
	return 0;
}

static bool any_placed(const struct options *options, enum placement placement)
{
	for (int kind = 0; kind < SITE_KIND_COUNT; kind++)
		if (options->placements[kind] == placement)
			return true;
	return false;
}

static int check_preload(const struct options *options)
{
	if (!options->preload)
		return 0;
	if (!any_placed(options, PLACED_USERSPACE))
		return fail(FAIL_USAGE,
			    "--preload without a userspace part: give --userspace SITES");
	/* The dynamic linker would go on without the library. */
	if (access(options->preload, R_OK) || strpbrk(options->preload, ": "))
		return fail(FAIL_USAGE,
			    "--preload '%s' is no library: give a file that can be read, without "
			    "colon or space in its path",
			    options->preload);
	return 0;
}

int options_parse(int argc, char **argv, struct options *options)
{
	enum {
		PID = 1,
		NO_UPROBES,
		ATTACH,
		USERSPACE,
		KERNEL,
		PRELOAD,
		MAP_KIND,
		PRINT_EVENTS,
		BTF,
		HELP,
		VERSION
	};
	static const struct option known[] = {
	    {"pid", required_argument, NULL, PID},
	    {"no-uprobes", no_argument, NULL, NO_UPROBES},
	    {"attach", required_argument, NULL, ATTACH},
	    {"userspace", required_argument, NULL, USERSPACE},
	    {"kernel", required_argument, NULL, KERNEL},
	    {"preload", required_argument, NULL, PRELOAD},
	    {"map-kind", required_argument, NULL, MAP_KIND},
	    {"print-events", required_argument, NULL, PRINT_EVENTS},
	    {"btf", required_argument, NULL, BTF},
	    {"help", no_argument, NULL, HELP},
	    {"version", no_argument, NULL, VERSION},
	    {NULL, 0, NULL, 0},
	};
	const char *userspace = NULL, *kernel = NULL;
	bool no_uprobes = false;
	unsigned long pid = 0;
	int option;

	memset(options, 0, sizeof(*options));
	opterr = 0;
	while ((option = getopt_long(argc, argv, ":", known, NULL)) != -1) {
		switch (option) {
		case PID:
			if (parse_count(optarg, INT_MAX, &pid) || !pid)
				return fail(FAIL_USAGE,
					    "--pid '%s' is not a process id: give a number > 0",
					    optarg);
			break;
		case NO_UPROBES:
			no_uprobes = true;
			break;
		case ATTACH:
			if (attach_parse(optarg, &options->attach))
				return fail(FAIL_USAGE,
					    "--attach '%s' is unknown: give auto, uprobe_multi or "
					    "perf_event",
					    optarg);
			break;
		case USERSPACE:
			userspace = optarg;
			break;
		case KERNEL:
			kernel = optarg;
			break;
		case PRELOAD:
			options->preload = optarg;
			break;
		case MAP_KIND:
			if (map_kind_parse(optarg, &options->map_kind))
				return fail(FAIL_USAGE,
					    "--map-kind '%s' is unknown: give array, hash, "
					    "percpu-array or percpu-hash",
					    optarg);
			break;
		case PRINT_EVENTS:
			if (parse_count(optarg, ULONG_MAX, &options->print_events))
				return fail(FAIL_USAGE,
					    "--print-events '%s' is not a count: give a number",
					    optarg);
			break;
		case BTF:
			options->btf_path = optarg;
			break;
		case HELP:
			fputs(help, stdout);
			return -1;
		case VERSION:
			puts("gotrace " GOTRACE_VERSION);
			return -1;
		case ':':
			return fail(FAIL_USAGE, "%s needs a value: see gotrace --help",
				    argv[optind - 1]);
		default:
			return fail(FAIL_USAGE, "unknown option %s: see gotrace --help",
				    argv[optind - 1]);
		}
	}
	if (optind < argc)
		return fail(FAIL_USAGE, "unexpected argument '%s': see gotrace --help",
			    argv[optind]);
	if (!pid)
		return fail(FAIL_USAGE, "no process named: give --pid PID");
	options->pid = (pid_t)pid;
	if (place_sites(options, no_uprobes, userspace, kernel) || check_preload(options))
		return FAIL_USAGE;
	if (!any_placed(options, PLACED_KERNEL))
		options->attach = ATTACH_NONE;
	return 0;
}
