// SPDX-License-Identifier: Apache-2.0
#include "sites.h"

#include <Zydis/Zydis.h>
#include <stdbool.h>

#include "fail.h"

struct probe {
	const char *symbol;
	enum site_kind entry_kind;
	enum site_kind ret_kind; /* that of the entry: entry only */
};

static const struct probe probes[] = {
    {"runtime.casgstatus", SITE_CASGSTATUS, SITE_CASGSTATUS},
    {"crypto/tls.(*Conn).Write", SITE_TLS_WRITE, SITE_TLS_WRITE_RET},
    {"crypto/tls.(*Conn).Read", SITE_TLS_READ, SITE_TLS_READ_RET},
};

const char *const site_kind_names[SITE_KIND_COUNT] = {
    [SITE_CASGSTATUS] = "casgstatus",
    [SITE_TLS_WRITE] = "tls_write",
    [SITE_TLS_WRITE_RET] = "tls_write_ret",
    [SITE_TLS_READ] = "tls_read",
    [SITE_TLS_READ_RET] = "tls_read_ret",
};

bool site_kind_is_ret(enum site_kind kind)
{
	return kind == SITE_TLS_WRITE_RET || kind == SITE_TLS_READ_RET;
}

const char *placement_name(enum placement placement)
{
	static const char *const names[PLACEMENT_COUNT] = {
	    [PLACED_KERNEL] = "kernel",
	    [PLACED_USERSPACE] = "userspace",
	    [PLACED_NOWHERE] = "untouched",
	};

	return names[placement];
}

/* at is how far into the function the site lies. */
static int add_site(struct sites *sites, const struct binary *binary, const char *symbol,
		    const struct function *function, uint64_t at, enum site_kind kind)
{
	if (sites->count == SITE_LIMIT)
		return fail(FAIL_NOT_GO, "%s has more than %d probe sites: trace another build",
			    binary->name, SITE_LIMIT);
	sites->list[sites->count++] = (struct site){
	    .name = site_kind_names[kind],
	    .symbol = symbol,
	    .at = site_kind_is_ret(kind) ? "ret" : "entry",
	    .kind = kind,
	    .offset = function->offset + at,
	    .address = function->address + at,
	};
	return 0;
}

/* Return probes rewrite return addresses, which Go's stack walks do not survive: so every RET of
 * the function gets an entry probe of its own. */
static int add_returns(struct sites *sites, const struct binary *binary, const struct probe *probe,
		       const struct function *function)
{
	ZydisDecodedInstruction instruction;
	ZydisDecoder decoder;
	int code = 0;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (uint64_t at = 0; at < function->bytes && !code; at += instruction.length) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
			&decoder, NULL, function->code + at, function->bytes - at, &instruction)))
			return fail(
			    FAIL_NOT_GO,
			    "%s: cannot decode %s at file offset %#llx: trace another build",
			    binary->name, probe->symbol,
			    (unsigned long long)(function->offset + at));
		if (instruction.mnemonic == ZYDIS_MNEMONIC_RET)
			code = add_site(sites, binary, probe->symbol, function, at,
					probe->ret_kind);
	}
	return code;
}

static int add_probe(struct sites *sites, const struct binary *binary, const struct probe *probe)
{
	struct function function;
	int code = binary_function(binary, probe->symbol, &function);

	if (!code)
		code = add_site(sites, binary, probe->symbol, &function, 0, probe->entry_kind);
	if (!code && probe->ret_kind != probe->entry_kind)
		code = add_returns(sites, binary, probe, &function);
	return code;
}

int sites_find(const struct binary *binary, const enum placement *placements, struct sites *sites)
{
	int code = 0;

	sites->count = 0;
	for (size_t index = 0; index < sizeof(probes) / sizeof(probes[0]) && !code; index++)
		code = add_probe(sites, binary, &probes[index]);
	for (size_t index = 0; index < sites->count; index++)
		sites->list[index].placement = placements[sites->list[index].kind];
	return code;
}

size_t sites_placed(const struct sites *sites, enum placement placement)
{
	size_t count = 0;

	for (size_t index = 0; index < sites->count; index++)
		count += sites->list[index].placement == placement;
	return count;
}
