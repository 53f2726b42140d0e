// A stand-in for bpftime's bpftimetool: `remove` removes the shared memory.
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared.h"

int main(int argc, char **argv) {
	char path[PATH_MAX];
	if (argc != 2 || strcmp(argv[1], "remove") != 0) {
		fprintf(stderr, "usage: bpftimetool remove\n");
		return 2;
	}
	shared_path(getenv(SHM_VARIABLE), path, sizeof(path));
	// Like the real one, it has no complaint where nothing is there.
	unlink(path);
	return 0;
}
