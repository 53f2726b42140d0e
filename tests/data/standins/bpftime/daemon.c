// A stand-in for bpftime_daemon: makes the shared memory with the whitelisted sites (-w, offsets
// in the target's program), for the probes of one tracer alone (-p). The real one rewrites what
// the tracer asks of the kernel; here the stand-in tracer reads the list and leaves those sites.
//
// Misbehaves as `daemon-refused`: ends as under lockdown.
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "shared.h"

static void list(struct shared *shared, const char *text) {
	char *end;
	unsigned long offset = strtoul(text, &end, 0);
	if (*end || !offset || shared->site_count == MAX_SITES) {
		fprintf(stderr, "stand-in daemon: -w %s is no offset\n", text);
		exit(1);
	}
	shared->sites[shared->site_count++].offset = offset;
}

int main(int argc, char **argv) {
	if (behaves("daemon-refused")) {
		fprintf(stderr, "libbpf: prog 'handle_exit_bpf': failed to load: -1\n");
		fprintf(stderr, "stand-in daemon: program of unknown type cannot use helper "
				"bpf_probe_write_user#36\n");
		return 1;
	}
	struct shared *shared = shared_create();
	if (!shared) {
		perror("stand-in daemon: no shared memory");
		return 1;
	}
	for (int option; (option = getopt(argc, argv, "p:w:")) != -1;) {
		if (option == 'p') {
			shared->only_tracer = atoi(optarg);
		} else if (option == 'w') {
			list(shared, optarg);
		} else {
			return 2;
		}
	}
	shared->from_daemon = 1;
	// The real one has one as soon as it watches system calls, for its events.
	if (epoll_create1(EPOLL_CLOEXEC) < 0) {
		perror("stand-in daemon");
		return 1;
	}
	fprintf(stderr, "stand-in daemon: userspace uprobe whitelist enabled\n");
	for (;;) {
		pause();
	}
}
