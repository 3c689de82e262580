/* The C side of librte_acl for five-tuples, which benchmarks and tests compare our classifier with.
 * Functions that can fail return 0 or a negative errno. */
#ifndef BULKHEAD_DPDK_ACL_H
#define BULKHEAD_DPDK_ACL_H

#include <stddef.h>
#include <stdint.h>

struct rte_acl_ctx;

/* One rule. Rust has the same structure. Addresses are in network byte order; those of IPv4 are the
 * first four bytes. */
struct bh_acl_rule {
	uint8_t src[16];
	uint8_t dst[16];
	uint8_t src_len;
	uint8_t dst_len;
	uint8_t protocol;
	uint8_t protocol_mask;
	uint16_t src_low, src_high;
	uint16_t dst_low, dst_high;
};

/* What is looked up: the protocol, three bytes of padding, the source, the destination, the two
 * ports, all in network byte order. */
#define BH_ACL_KEY_V4 16
#define BH_ACL_KEY_V6 40

int bh_acl_create(const char *name, int v6, uint32_t rules, struct rte_acl_ctx **context);
int bh_acl_add(struct rte_acl_ctx *context, int v6, const struct bh_acl_rule *rules,
	       uint32_t count);
int bh_acl_build(struct rte_acl_ctx *context, int v6, size_t max_size);
int bh_acl_algorithm(struct rte_acl_ctx *context, int algorithm);
int bh_acl_classify(const struct rte_acl_ctx *context, const uint8_t **keys, uint32_t *results,
		    uint32_t count);
void bh_acl_free(struct rte_acl_ctx *context);
size_t bh_heap_bytes(void);

#endif
