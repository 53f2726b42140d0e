// SPDX-License-Identifier: Apache-2.0
#include "preload.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"

static const char file_prefix[] = "/tmp/bpftime-mock.";

static int is_library(struct dl_phdr_info *info, size_t bytes, void *path)
{
	(void)bytes;
	return !strcmp(info->dlpi_name, path);
}

int preload_check(const char *path)
{
	if (dl_iterate_phdr(is_library, (void *)path))
		return 0;
	return fail(FAIL_USERSPACE,
		    "the dynamic linker did not take %s: give --preload a library for this system",
		    path);
}

/* The library keeps them open, so this process's descriptors name them. */
void preload_remove_files(void)
{
	DIR *descriptors = opendir("/proc/self/fd");
	struct dirent *entry;

	while (descriptors && (entry = readdir(descriptors))) {
		char path[PATH_MAX];
		ssize_t length =
		    readlinkat(dirfd(descriptors), entry->d_name, path, sizeof(path) - 1);

		path[length > 0 ? length : 0] = 0;
		if (!strncmp(path, file_prefix, strlen(file_prefix)))
			unlink(path);
	}
	if (descriptors)
		closedir(descriptors);
}
