// A stand-in for bpftime's command line: `load COMMAND...`, `attach PID`, `detach`.
//
// `attach` does to the process what can be seen of the real one: the agent's library is mapped, the
// sites of the shared memory become jumps into anonymous memory near the program, and each hit adds
// to a counter in the shared memory, which is mapped, too. It uses one word of the stack.
//
// Misbehaves, each after the word in PREFIX/behaviour:
//   untouched     says that all is well and touches nothing
//   attach-fails  ends with exit code 3
//   attach-hangs  never ends
//   aborts        the server ends by SIGABRT, with a last line
//   segfaults     the same by SIGSEGV
//   breaks-later  the server's code breaks down after 5000 hits of a site
//   partly        only the first site is patched
//   refuses       takes the last site for one that cannot be patched
//   everybody     every other process of the same program is patched, too
//   agent-only    the agent is mapped and no more, whatever the shared memory says
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "patch.h"
#include "shared.h"
#include "target.h"

#define AGENT "libbpftime-agent.so"
#define BREAKS_AFTER 5000
#define TRAMPOLINES_BYTES ((size_t)MAX_SITES * TRAMPOLINE_BYTES)
#define PAGE 4096UL
// A jump: it was attached before, and counts already.
#define PATCHED 0xe9

static struct target target;
static char prefix[PATH_MAX];

static void *in_prefix(const char *name, char path[PATH_MAX]) {
	if (snprintf(path, PATH_MAX, "%s/%s", prefix, name) >= PATH_MAX) {
		errx(1, "stand-in: the path of %s is too long", name);
	}
	return path;
}

// The real agent tells of success and failure in the server's own stderr, and nowhere else.
static void say_in_server(pid_t pid, const char *format, ...) {
	char path[64], line[512];
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	snprintf(path, sizeof(path), "/proc/%d/fd/2", pid);
	int descriptor = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (descriptor >= 0) {
		if (write(descriptor, line, (size_t)length) < 0) {
			warn("stand-in: %s", path);
		}
		close(descriptor);
	}
}

// Out: a variable of the target's environment as it was at its start; NULL where it has none.
static const char *variable_of(pid_t pid, const char *name) {
	static char environment[1 << 16];
	char path[64];
	size_t length = strlen(name);
	snprintf(path, sizeof(path), "/proc/%d/environ", pid);
	int descriptor = open(path, O_RDONLY | O_CLOEXEC);
	if (descriptor < 0) {
		err(1, "stand-in: %s", path);
	}
	ssize_t size = read(descriptor, environment, sizeof(environment) - 1);
	close(descriptor);
	for (char *at = environment; at < environment + size; at += strlen(at) + 1) {
		if (strncmp(at, name, length) == 0 && at[length] == '=') {
			return at + length + 1;
		}
	}
	return NULL;
}

// ---- load

static int load(char **command) {
	char library[PATH_MAX];
	in_prefix("libbpftime-syscall-server.so", library);
	pid_t child = fork();
	if (child == 0) {
		setenv("LD_PRELOAD", library, 1);
		execvp(command[0], command);
		err(127, "stand-in: %s", command[0]);
	}
	int status = 0;
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// ---- attach

static void map_file(const char *path, uint64_t at, uint64_t size, uint64_t rights, uint64_t flags,
		     uint64_t scratch) {
	target_write(&target, scratch, path, strlen(path) + 1);
	uint64_t how = flags & MAP_SHARED ? O_RDWR : O_RDONLY;
	uint64_t file = target_syscall(&target, SYS_openat,
				       (uint64_t[6]){(uint64_t)AT_FDCWD, scratch, how | O_CLOEXEC});
	target_syscall(&target, SYS_mmap, (uint64_t[6]){at, size, rights, flags, file, 0});
	target_syscall(&target, SYS_close, (uint64_t[6]){file});
}

static void map_agent(const char *path, uint64_t scratch) {
	map_file(path, 0, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, scratch);
}

// Out: where the trampolines go; the shared memory is mapped behind them.
static uint64_t map_all(const char *shm_name) {
	char path[PATH_MAX];
	uint64_t at = target_gap(&target, TRAMPOLINES_BYTES + SHM_HEAD_BYTES);
	target_syscall(&target, SYS_mmap,
		       (uint64_t[6]){at, TRAMPOLINES_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, (uint64_t)-1, 0});
	map_agent(in_prefix(AGENT, path), at);
	shared_path(shm_name, path, sizeof(path));
	map_file(path, at + TRAMPOLINES_BYTES, SHM_HEAD_BYTES, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED_NOREPLACE, at);
	return at;
}

static uint64_t address_of(const struct shared_site *site) {
	const char *file = site->file[0] ? site->file : target.program;
	return target_address(&target, file, site->offset);
}

// Like the real one: one site that cannot be patched, and none of them is.
static int can_patch_all(const struct shared *shared) {
	for (uint32_t index = 0; index < shared->site_count; index++) {
		uint8_t code[MAX_CUT_BYTES];
		uint64_t address = address_of(&shared->sites[index]);
		if (!address) {
			say_in_server(target.pid, "Unable to find offset %#lx\n", shared->sites[index].offset);
			return 0;
		}
		target_read(&target, address, code, sizeof(code));
		if (code[0] == PATCHED) {
			continue;
		}
		int refused = behaves("refuses") && index + 1 == shared->site_count;
		if (refused || !patch_cut(code, sizeof(code))) {
			say_in_server(target.pid,
				      "gum_interceptor_attach failed for attach_type=uprobe at function %#lx "
				      "(err=-1, GUM_ATTACH_WRONG_SIGNATURE, first_bytes=%02x)\n"
				      "Unable to instantiate handlers\n",
				      address, code[0]);
			return 0;
		}
	}
	return 1;
}

static void patch(uint64_t site, uint64_t trampoline, uint64_t counter) {
	uint8_t code[MAX_CUT_BYTES], made[TRAMPOLINE_BYTES] = {0};
	target_read(&target, site, code, sizeof(code));
	if (code[0] == PATCHED) {
		return;
	}
	size_t cut = patch_cut(code, sizeof(code));
	uint32_t breaks_after = behaves("breaks-later") ? BREAKS_AFTER : 0;
	patch_trampoline(made, code, site, trampoline, counter, breaks_after);
	target_write(&target, trampoline, made, sizeof(made));
	target_step_out(&target, site, cut);
	memset(code, 0x90, cut);
	patch_jump(code, site, trampoline);
	uint64_t page = site & ~(PAGE - 1), end = (site + cut + PAGE - 1) & ~(PAGE - 1);
	target_syscall(&target, SYS_mprotect,
		       (uint64_t[6]){page, end - page, PROT_READ | PROT_WRITE | PROT_EXEC});
	target_write(&target, site, code, cut);
}

static void patch_all(const struct shared *shared, uint64_t trampolines) {
	uint32_t last = behaves("partly") && shared->site_count ? 1 : shared->site_count;
	for (uint32_t index = 0; index < last; index++) {
		uint64_t head = trampolines + TRAMPOLINES_BYTES;
		uint64_t counter = head + offsetof(struct shared, sites) +
				   index * sizeof(struct shared_site) + offsetof(struct shared_site, hits);
		patch(address_of(&shared->sites[index]), trampolines + index * TRAMPOLINE_BYTES, counter);
	}
}

// The process gets the signal's own end, whatever it would have made of it.
static void end_by(int number, uint64_t scratch) {
	uint8_t by_default[32] = {0};
	target_write(&target, scratch, by_default, sizeof(by_default));
	target_syscall(&target, SYS_rt_sigaction, (uint64_t[6]){(uint64_t)number, scratch, 0, 8});
	say_in_server(target.pid, "stand-in agent: unexpected return pc\n");
	target_resume(&target);
	kill(target.pid, number);
}

static void bring_the_agent_alone(pid_t pid) {
	char path[PATH_MAX];
	target_stop(&target, pid);
	uint64_t scratch = target_syscall(&target, SYS_mmap,
					  (uint64_t[6]){0, PAGE, PROT_READ | PROT_WRITE,
							MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1, 0});
	map_agent(in_prefix(AGENT, path), scratch);
	target_resume(&target);
}

static int succeed(void) {
	printf("Successfully injected. ID: 1\n");
	return 0;
}

static void patch_process(pid_t pid, const char *name, struct shared *shared) {
	target_stop(&target, pid);
	uint64_t trampolines = map_all(name);
	if (behaves("aborts") || behaves("segfaults")) {
		end_by(behaves("aborts") ? SIGABRT : SIGSEGV, trampolines);
		return;
	}
	if (can_patch_all(shared)) {
		patch_all(shared, trampolines);
	}
	target_resume(&target);
	if (shared->attached_count < MAX_ATTACHED) {
		shared->attached[shared->attached_count++] = pid;
	}
	say_in_server(pid, "Attach successfully\n");
}

static void patch_others(pid_t pid, const char *name, struct shared *shared) {
	char path[64], program[sizeof(target.program)], other[sizeof(target.program)];
	memcpy(program, target.program, sizeof(program));
	DIR *folder = opendir("/proc");
	for (struct dirent *entry; folder && (entry = readdir(folder));) {
		pid_t found = atoi(entry->d_name);
		snprintf(path, sizeof(path), "/proc/%d/exe", found);
		ssize_t length = readlink(path, other, sizeof(other) - 1);
		if (found <= 0 || found == pid || length < 0) {
			continue;
		}
		other[length] = '\0';
		if (strcmp(other, program) == 0) {
			patch_process(found, name, shared);
		}
	}
	if (folder) {
		closedir(folder);
	}
}

static int attach(pid_t pid) {
	if (behaves("attach-fails")) {
		fprintf(stderr, "stand-in: Failed to inject: it refuses\n");
		return 3;
	}
	while (behaves("attach-hangs")) {
		pause();
	}
	if (behaves("untouched")) {
		return succeed();
	}
	if (behaves("agent-only")) {
		bring_the_agent_alone(pid);
		return succeed();
	}
	const char *name = variable_of(pid, SHM_VARIABLE);
	struct shared *shared = shared_open(name);
	if (!shared) {
		say_in_server(pid, "Unable to initialize shared memory: No such file or directory\n");
		return succeed();
	}
	patch_process(pid, name, shared);
	if (behaves("everybody")) {
		patch_others(pid, name, shared);
	}
	return succeed();
}

// ---- detach

static void restore(const struct shared_site *site) {
	uint8_t code[MAX_CUT_BYTES];
	const char *file = site->file[0] ? site->file : target.program;
	uint64_t address = address_of(site);
	int descriptor = open(file, O_RDONLY | O_CLOEXEC);
	if (!address || descriptor < 0 ||
	    pread(descriptor, code, sizeof(code), (off_t)site->offset) != sizeof(code)) {
		errx(1, "stand-in: cannot restore %s+%#lx", file, site->offset);
	}
	close(descriptor);
	target_write(&target, address, code, patch_cut(code, sizeof(code)));
}

static int detach(void) {
	struct shared *shared = shared_open(getenv(SHM_VARIABLE));
	for (uint32_t index = 0; shared && index < shared->attached_count; index++) {
		pid_t pid = shared->attached[index];
		if (kill(pid, 0) != 0) {
			continue;
		}
		printf("Detaching from %d\n", pid);
		target_stop(&target, pid);
		for (uint32_t site = 0; site < shared->site_count; site++) {
			restore(&shared->sites[site]);
		}
		target_resume(&target);
	}
	if (shared) {
		shared->attached_count = 0;
	}
	return 0;
}

// ---- the command line

int main(int argc, char **argv) {
	const char *home = getenv("HOME");
	int first = 1;
	snprintf(prefix, sizeof(prefix), "%s/.bpftime", home ? home : "");
	if (argc > 2 && strcmp(argv[1], "-i") == 0) {
		snprintf(prefix, sizeof(prefix), "%s", argv[2]);
		first = 3;
	}
	const char *subcommand = argc > first ? argv[first] : "";
	if (strcmp(subcommand, "load") == 0 && argc > first + 1) {
		return load(argv + first + 1);
	}
	if (strcmp(subcommand, "attach") == 0 && argc == first + 2) {
		return attach(atoi(argv[first + 1]));
	}
	if (strcmp(subcommand, "detach") == 0) {
		return detach();
	}
	fprintf(stderr, "usage: bpftime [-i PREFIX] load COMMAND... | attach PID | detach\n");
	return 2;
}
