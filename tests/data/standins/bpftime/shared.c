// Of the stand-in for bpftime: the shared memory, and which misbehaviour was asked for.
#include "shared.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void shared_path(const char *name, char *path, size_t size) {
	snprintf(path, size, "/dev/shm/%s", name && *name ? name : SHM_DEFAULT_NAME);
}

static struct shared *map(int descriptor) {
	void *at = mmap(NULL, SHM_HEAD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
	close(descriptor);
	return at == MAP_FAILED ? NULL : at;
}

struct shared *shared_create(void) {
	char path[PATH_MAX];
	const char *size_mb = getenv("BPFTIME_SHM_MEMORY_MB");
	shared_path(getenv(SHM_VARIABLE), path, sizeof(path));
	unlink(path);
	int descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (descriptor < 0) {
		return NULL;
	}
	if (ftruncate(descriptor, (size_mb ? atol(size_mb) : 50) << 20) != 0) {
		close(descriptor);
		return NULL;
	}
	struct shared *made = map(descriptor);
	if (made) {
		memcpy(made->magic, SHM_MAGIC, sizeof(made->magic));
	}
	return made;
}

struct shared *shared_open(const char *name) {
	char path[PATH_MAX];
	struct stat status;
	shared_path(name, path, sizeof(path));
	int descriptor = open(path, O_RDWR | O_CLOEXEC);
	if (descriptor < 0) {
		return NULL;
	}
	if (fstat(descriptor, &status) != 0 || status.st_size < SHM_HEAD_BYTES) {
		close(descriptor);
		return NULL;
	}
	return map(descriptor);
}

const char *behaviour(const char *beside) {
	static char word[64];
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s", beside);
	char *slash = strrchr(path, '/');
	if (!slash) {
		return "";
	}
	snprintf(slash, sizeof(path) - (size_t)(slash - path), "/behaviour");
	FILE *file = fopen(path, "re");
	if (!file || fscanf(file, "%63s", word) != 1) {
		word[0] = '\0';
	}
	if (file) {
		fclose(file);
	}
	return word;
}

int behaves(const char *word) {
	char self[PATH_MAX] = "";
	return readlink("/proc/self/exe", self, sizeof(self) - 1) > 0 &&
	       strcmp(behaviour(self), word) == 0;
}
