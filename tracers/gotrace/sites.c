// SPDX-License-Identifier: Apache-2.0
#include "sites.h"

#include <Zydis/Zydis.h>
#include <stdbool.h>

#include "fail.h"

struct probe {
	const char *symbol;
	const char *entry_name;
	enum site_kind entry_kind;
	const char *ret_name; /* NULL: entry only */
	enum site_kind ret_kind;
};

static const struct probe probes[] = {
    {"runtime.casgstatus", "casgstatus", SITE_CASGSTATUS, NULL, 0},
    {"crypto/tls.(*Conn).Write", "tls_write", SITE_TLS_WRITE, "tls_write_ret", SITE_TLS_WRITE_RET},
    {"crypto/tls.(*Conn).Read", "tls_read", SITE_TLS_READ, "tls_read_ret", SITE_TLS_READ_RET},
};

static int add_site(struct sites *sites, const struct binary *binary, struct site site)
{
	if (sites->count == SITE_LIMIT)
		return fail(FAIL_NOT_GO, "%s has more than %d probe sites: trace another build",
			    binary->name, SITE_LIMIT);
	sites->list[sites->count++] = site;
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
			code = add_site(sites, binary,
					(struct site){probe->ret_name, probe->symbol, "ret",
						      probe->ret_kind, function->offset + at,
						      function->address + at});
	}
	return code;
}

int sites_find(const struct binary *binary, struct sites *sites)
{
	sites->count = 0;
	for (size_t index = 0; index < sizeof(probes) / sizeof(probes[0]); index++) {
		const struct probe *probe = &probes[index];
		struct function function;
		int code = binary_function(binary, probe->symbol, &function);

		if (!code)
			code = add_site(sites, binary,
					(struct site){probe->entry_name, probe->symbol, "entry",
						      probe->entry_kind, function.offset,
						      function.address});
		if (!code && probe->ret_name)
			code = add_returns(sites, binary, probe, &function);
		if (code)
			return code;
	}
	return 0;
}
