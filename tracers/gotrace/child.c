// SPDX-License-Identifier: Apache-2.0
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fail.h"
#include "moment.h"

enum {
	/* How often a wait looks for signals. */
	LOOK_INTERVAL_MS = 20,
	/* What a child that is ending gets to say its last words. */
	END_GRACE_MS = 100,
};

/* In the child. All other descriptors close, so nothing that we hold lives on in it. */
static void become(const char *path, const char *const *arguments, const char *preload,
		   const int *ends, pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(FAIL_USERSPACE);
	/* So that it can be ended with what it starts, and a terminal's Ctrl-C is ours alone. */
	setpgid(0, 0);
	dup2(ends[1], STDOUT_FILENO);
	dup2(ends[1], STDERR_FILENO);
	if (ends[0] == CHILD_CHANNEL)
		fcntl(ends[0], F_SETFD, 0);
	else
		dup2(ends[0], CHILD_CHANNEL);
	if (preload)
		setenv("LD_PRELOAD", preload, 1);
	execv(path, (char *const *)arguments);
	fail(FAIL_USERSPACE, "cannot run %s: %s", path, strerror(errno));
	_exit(FAIL_USERSPACE);
}

static void close_all(const int *descriptors, size_t count)
{
	for (size_t index = 0; index < count; index++)
		if (descriptors[index] >= 0)
			close(descriptors[index]);
}

int child_start(const char *path, const char *const *arguments, const char *preload,
		struct child *child)
{
	int sockets[2] = {-1, -1}, pipes[2] = {-1, -1}, error;
	pid_t parent = getpid();

	*child = (struct child)CHILD_NONE;
	if (!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) &&
	    !pipe2(pipes, O_CLOEXEC)) {
		child->pid = fork();
		if (!child->pid)
			become(path, arguments, preload, (int[]){sockets[1], pipes[1]}, parent);
		if (child->pid > 0) {
			close_all((int[]){sockets[1], pipes[1]}, 2);
			fcntl(pipes[0], F_SETFL, O_NONBLOCK);
			child->channel = sockets[0];
			child->log = pipes[0];
			return 0;
		}
	}
	error = errno;
	child->pid = 0;
	close_all(sockets, 2);
	close_all(pipes, 2);
	return error;
}

static void keep(struct child *child, const char *text, size_t bytes)
{
	for (size_t index = 0; index < bytes; index++) {
		if (text[index] == '\n') {
			child->line_open = false;
			continue;
		}
		if (!child->line_open)
			child->line_bytes = 0;
		child->line_open = true;
		if (child->line_bytes < sizeof(child->line) - 1)
			child->line[child->line_bytes++] = text[index];
	}
	child->line[child->line_bytes] = 0;
}

/* To a reader that takes it: we never wait for one. */
static void pass_on(const char *text, size_t bytes)
{
	struct pollfd reader = {.fd = STDERR_FILENO, .events = POLLOUT};

	if (poll(&reader, 1, 0) > 0 && write(STDERR_FILENO, text, bytes) < 0)
		return;
}

bool child_listen(struct child *child)
{
	char text[PIPE_BUF];
	ssize_t bytes;

	while ((bytes = read(child->log, text, sizeof(text))) > 0) {
		keep(child, text, (size_t)bytes);
		if (child->passed_on)
			pass_on(text, (size_t)bytes);
	}
	return bytes < 0 && errno == EAGAIN;
}

void child_send(const struct child *child, const void *message, size_t bytes)
{
	if (send(child->channel, message, bytes, MSG_NOSIGNAL) < 0)
		return;
}

int child_await(struct child *child, void *message, size_t bytes, int timeout_ms,
		bool (*interrupted)(void))
{
	double end_ms = now_ms() + timeout_ms;

	while (now_ms() < end_ms) {
		struct pollfd waits[] = {{.fd = child->channel, .events = POLLIN},
					 {.fd = child->log, .events = POLLIN}};

		if (interrupted && interrupted())
			return CHILD_INTERRUPTED;
		poll(waits, 2, LOOK_INTERVAL_MS);
		child_listen(child);
		if (waits[0].revents)
			return recv(child->channel, message, bytes, 0) == (ssize_t)bytes
				   ? 0
				   : CHILD_FAILED;
	}
	snprintf(child->line, sizeof(child->line), "no answer within %d s", timeout_ms / 1000);
	return CHILD_FAILED;
}

void child_end(struct child *child, char *how, size_t size)
{
	double end_ms = now_ms() + END_GRACE_MS;
	int status = 0;

	if (!child->pid)
		return;
	close(child->channel);
	while (!waitpid(child->pid, &status, WNOHANG)) {
		if (now_ms() >= end_ms)
			kill(child->pid, SIGKILL);
		child_listen(child);
		poll(NULL, 0, 1);
	}
	kill(-child->pid, SIGKILL);
	child_listen(child);
	close(child->log);
	child->pid = 0;
	child->channel = child->log = -1;
	if (WIFSIGNALED(status))
		snprintf(how, size, "signal %d", WTERMSIG(status));
	else
		snprintf(how, size, "exit code %d", WEXITSTATUS(status));
}

const char *child_last_line(const struct child *child)
{
	size_t name_bytes = strlen(program_name);
	const char *line = child->line;

	if (!strncmp(line, program_name, name_bytes) && !strncmp(line + name_bytes, ": ", 2))
		line += name_bytes + 2;
	return *line ? line : "it said nothing: start again";
}
