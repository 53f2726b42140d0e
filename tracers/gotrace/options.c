// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    "  17  the process exited while it was traced\n";

static int parse_count(const char *text, unsigned long highest, unsigned long *count)
{
	char *end;

	errno = 0;
	*count = strtoul(text, &end, 10);
	return errno || end == text || *end || *text == '-' || *count > highest ? -1 : 0;
}

int options_parse(int argc, char **argv, struct options *options)
{
	enum { PID = 1, NO_UPROBES, ATTACH, PRINT_EVENTS, BTF, HELP, VERSION };
	static const struct option known[] = {
	    {"pid", required_argument, NULL, PID},
	    {"no-uprobes", no_argument, NULL, NO_UPROBES},
	    {"attach", required_argument, NULL, ATTACH},
	    {"print-events", required_argument, NULL, PRINT_EVENTS},
	    {"btf", required_argument, NULL, BTF},
	    {"help", no_argument, NULL, HELP},
	    {"version", no_argument, NULL, VERSION},
	    {NULL, 0, NULL, 0},
	};
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
	if (no_uprobes)
		options->attach = ATTACH_NONE;
	return 0;
}
