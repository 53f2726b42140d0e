// SPDX-License-Identifier: Apache-2.0
#include "userspace.h"

#include <stdio.h>
#include <string.h>

#include "attach.h"
#include "fail.h"
#include "moment.h"
#include "part.h"

enum {
	/* A userspace runtime sets up its shared memory meanwhile. */
	START_TIMEOUT_MS = 30000,
	ANSWER_TIMEOUT_MS = 5000,
};

static void describe_job(const struct options *options, const struct target *target,
			 const struct binary *binary, const struct sites *sites,
			 struct part_job *job)
{
	memset(job, 0, sizeof(*job));
	job->pid = target->pid;
	job->goid_offset = binary->goid_offset;
	job->map_kind = options->map_kind;
	for (size_t index = 0; index < sites->count; index++)
		if (sites->list[index].placement == PLACED_USERSPACE)
			job->offsets[sites->list[index].kind] = sites->list[index].offset;
	/* A userspace runtime compares with the path that the process itself sees. */
	strcpy(job->exe, options->preload ? target->exe : target->exe_link);
	if (options->preload)
		snprintf(job->preload, sizeof(job->preload), "%s", options->preload);
}

int userspace_start(const struct options *options, const struct target *target,
		    const struct binary *binary, const struct sites *sites,
		    struct userspace *userspace)
{
	static const char *const arguments[] = {program_name, PART_ARGUMENT, NULL};
	double start_ms = now_ms();
	struct part_report report;
	struct part_job job;
	int code, error;

	if (!sites_placed(sites, PLACED_USERSPACE))
		return 0;
	error = child_start("/proc/self/exe", arguments, options->preload, &userspace->child);
	if (error)
		return fail(FAIL_USERSPACE,
			    "cannot start the userspace part (%s): see ulimit -n and ulimit -u",
			    strerror(error));
	userspace->child.passed_on = options->preload;
	describe_job(options, target, binary, sites, &job);
	child_send(&userspace->child, &job, sizeof(job));
	code = child_await(&userspace->child, &report, sizeof(report), START_TIMEOUT_MS,
			   attach_interrupted);
	userspace->attach_ms = now_ms() - start_ms;
	if (code == CHILD_FAILED)
		return userspace_failure(userspace);
	if (code == CHILD_INTERRUPTED)
		userspace_stop(userspace);
	return code ? ATTACH_INTERRUPTED : 0;
}

int userspace_counts(struct userspace *userspace, const struct sites *sites, bool last,
		     struct counts *counts)
{
	enum part_request request = last ? PART_COUNT_LAST : PART_COUNT;
	struct part_report report;

	if (!userspace->child.pid)
		return 0;
	child_send(&userspace->child, &request, sizeof(request));
	if (child_await(&userspace->child, &report, sizeof(report), ANSWER_TIMEOUT_MS, NULL))
		return FAIL_USERSPACE;
	for (size_t index = 0; index < sites->count; index++)
		if (sites->list[index].placement == PLACED_USERSPACE)
			counts->site_hits[index] = report.hits[sites->list[index].kind];
	return 0;
}

bool userspace_listen(struct userspace *userspace)
{
	return child_listen(&userspace->child);
}

int userspace_failure(struct userspace *userspace)
{
	char how[32] = "";

	child_end(&userspace->child, how, sizeof(how));
	return fail(FAIL_USERSPACE, "the userspace part failed (%s): %s", how,
		    child_last_line(&userspace->child));
}

void userspace_stop(struct userspace *userspace)
{
	char how[32];

	child_end(&userspace->child, how, sizeof(how));
}
