// A stand-in for bpftime's libbpftime-syscall-server.so: put before a tracer by LD_PRELOAD, it
// makes the shared memory. The stand-in tracer writes its sites there itself. Like the real one it
// leaves a small file in /tmp, which it holds open.
//
// Misbehaves as `no-shm`: makes none.
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared.h"

__attribute__((constructor)) static void load(void) {
	Dl_info self;
	if (!dladdr((void *)load, &self) || strcmp(behaviour(self.dli_fname), "no-shm") == 0) {
		return;
	}
	char mock[] = "/tmp/bpftime-mock.s-XXXXXX";
	int descriptor = mkostemp(mock, O_CLOEXEC);
	if (!shared_create() || descriptor < 0 || write(descriptor, "", 1) != 1) {
		perror("stand-in syscall server: no shared memory, or no file in /tmp");
		abort();
	}
}
