/* See acl.h. */
#include "acl.h"

#include <errno.h>
#include <string.h>

#include <rte_acl.h>
#include <rte_byteorder.h>
#include <rte_common.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include <rte_vect.h>

/* Protocol, addresses in words of 32 bits, ports. */
#define FIELDS(words) (1 + 2 * (words) + 2)
#define MOST_FIELDS FIELDS(4)

RTE_ACL_RULE_DEF(acl_rule, MOST_FIELDS);

static uint32_t words_of(int v6)
{
	return v6 ? 4 : 1;
}

int bh_acl_create(const char *name, int v6, uint32_t rules, struct rte_acl_ctx **context)
{
	struct rte_acl_param param = {
		.name = name,
		.socket_id = SOCKET_ID_ANY,
		.rule_size = RTE_ACL_RULE_SZ(FIELDS(words_of(v6))),
		.max_rule_num = rules,
	};

	/* The widest instructions are left alone by default; a benchmark wants the library's best. */
	rte_vect_set_max_simd_bitwidth(RTE_VECT_SIMD_512);
	*context = rte_acl_create(&param);
	return *context ? 0 : -(rte_errno ? rte_errno : ENOMEM);
}

/* The prefix as masks of 32 bits each, which is what librte_acl splits long fields into. */
static void add_prefix(struct rte_acl_field *field, const uint8_t *address, uint32_t len,
		       uint32_t words)
{
	for (uint32_t i = 0; i < words; i++) {
		uint32_t word, bits = len > 32 * i ? RTE_MIN(len - 32 * i, 32u) : 0;

		memcpy(&word, address + 4 * i, sizeof(word));
		field[i].value.u32 = rte_be_to_cpu_32(word);
		field[i].mask_range.u32 = bits;
	}
}

int bh_acl_add(struct rte_acl_ctx *context, int v6, const struct bh_acl_rule *rules,
	       uint32_t count)
{
	uint32_t words = words_of(v6);

	for (uint32_t i = 0; i < count; i++) {
		const struct bh_acl_rule *from = &rules[i];
		struct acl_rule rule = { 0 };
		struct rte_acl_field *ports = &rule.field[1 + 2 * words];
		int status;

		/* The first rule decides, librte_acl's is the one of the highest priority. */
		rule.data.category_mask = 1;
		rule.data.priority = count - i;
		rule.data.userdata = i + 1;
		rule.field[0].value.u8 = from->protocol;
		rule.field[0].mask_range.u8 = from->protocol_mask;
		add_prefix(&rule.field[1], from->src, from->src_len, words);
		add_prefix(&rule.field[1 + words], from->dst, from->dst_len, words);
		ports[0].value.u16 = from->src_low;
		ports[0].mask_range.u16 = from->src_high;
		ports[1].value.u16 = from->dst_low;
		ports[1].mask_range.u16 = from->dst_high;
		status = rte_acl_add_rules(context, (struct rte_acl_rule *)&rule, 1);
		if (status)
			return status;
	}
	return 0;
}

int bh_acl_build(struct rte_acl_ctx *context, int v6, size_t max_size)
{
	uint32_t words = words_of(v6), n = 0;
	struct rte_acl_config config = {
		.num_categories = 1,
		.num_fields = FIELDS(words),
		.max_size = max_size,
	};

	config.defs[n++] = (struct rte_acl_field_def){
		.type = RTE_ACL_FIELD_TYPE_BITMASK,
		.size = sizeof(uint8_t),
	};
	for (; n <= 2 * words; n++)
		config.defs[n] = (struct rte_acl_field_def){
			.type = RTE_ACL_FIELD_TYPE_MASK,
			.size = sizeof(uint32_t),
			.field_index = n,
			.input_index = n,
			.offset = 4 * n,
		};
	for (uint32_t port = 0; port < 2; port++, n++)
		config.defs[n] = (struct rte_acl_field_def){
			.type = RTE_ACL_FIELD_TYPE_RANGE,
			.size = sizeof(uint16_t),
			.field_index = n,
			.input_index = 1 + 2 * words,
			.offset = 4 * (1 + 2 * words) + 2 * port,
		};
	return rte_acl_build(context, &config);
}

int bh_acl_algorithm(struct rte_acl_ctx *context, int algorithm)
{
	return rte_acl_set_ctx_classify(context, (enum rte_acl_classify_alg)algorithm);
}

int bh_acl_classify(const struct rte_acl_ctx *context, const uint8_t **keys, uint32_t *results,
		    uint32_t count)
{
	return rte_acl_classify(context, keys, results, count, 1);
}

void bh_acl_free(struct rte_acl_ctx *context)
{
	rte_acl_free(context);
}

/* What DPDK's heaps have handed out, in bytes. */
size_t bh_heap_bytes(void)
{
	struct rte_malloc_socket_stats stats;
	size_t bytes = 0;

	for (int socket = 0; socket < RTE_MAX_NUMA_NODES; socket++)
		if (rte_malloc_get_socket_stats(socket, &stats) == 0)
			bytes += stats.heap_allocsz_bytes;
	return bytes;
}
