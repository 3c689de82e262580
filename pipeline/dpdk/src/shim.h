/* The C side of the binding to DPDK. It works per burst: no DPDK structure's layout and none of its
 * inline functions reach Rust, so the same source builds against every DPDK from 22.11 on.
 *
 * Functions that can fail return 0 or a negative errno. Where one makes several DPDK calls, `call`
 * receives the name of the one that failed. */
#ifndef BULKHEAD_DPDK_SHIM_H
#define BULKHEAD_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>

struct rte_mbuf;
struct rte_mempool;

/* One frame in one buffer. Rust has the same structure. */
struct bh_frame {
	struct rte_mbuf *mbuf;
	uint8_t *data;
	uint32_t len;
	uint32_t reserved;
};

/* What a device can do. */
struct bh_device_info {
	char driver[64];
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint16_t min_mtu;
	uint16_t max_mtu;
	uint16_t mtu;
	uint16_t rss_key_len;      /* 0: no RSS key can be set */
	int32_t socket;
	uint8_t rss_on_addresses;  /* the hash can be of the addresses alone, IPv4 and IPv6 */
	uint8_t reserved;
	uint16_t rss_table_len;    /* entries of the table from hash to queue; 0: unknown */
};

/* How a device is to be configured. */
struct bh_device_config {
	struct rte_mempool *pool;
	const uint8_t *rss_key;    /* NULL: no RSS */
	uint16_t queues;
	uint16_t mtu;
	uint16_t rx_descriptors;   /* adjusted to what the driver takes */
	uint16_t tx_descriptors;
};

/* The driver's counters, each since the device was opened. */
struct bh_counters {
	uint64_t missed;
	uint64_t receive_errors;
	uint64_t transmit_errors;
	uint64_t no_buffer;
};

/* One extended statistic. */
struct bh_xstat {
	char name[64];
	uint64_t value;
};

typedef void (*bh_log_fn)(uint32_t level, const char *text, size_t len);

const char *bh_version(void);
int bh_log_to(bh_log_fn sink);
void bh_log_hush_libraries(void);
int bh_eal_init(int argc, char **argv);
int bh_thread_register(void);
void bh_thread_unregister(void);

struct rte_mempool *bh_pool_create(const char *name, uint32_t count, uint32_t cache,
				   uint16_t data_room, int32_t *error);
/* Notes what this thread takes out of a pool and does not put back, until unwatch, which puts it back if asked to:
 * whoever has taken it must have lost it. */
int bh_pool_watch(struct rte_mempool *pool);
void bh_pool_unwatch(struct rte_mempool *pool, int put_back);
uint32_t bh_pool_available(const struct rte_mempool *pool);
uint32_t bh_pool_chunks(const struct rte_mempool *pool);
uint32_t bh_pool_element_size(const struct rte_mempool *pool);

int bh_device_probe(const char *devargs, uint16_t *port, const char **call);
int bh_device_info(uint16_t port, struct bh_device_info *info);
int bh_device_configure(uint16_t port, const struct bh_device_config *config, const char **call);
int bh_device_start(uint16_t port);
int bh_device_stop(uint16_t port);
int bh_device_remove(uint16_t port, const char **call);
int bh_device_promiscuous(uint16_t port, int on);
int bh_device_link(uint16_t port, int *up, uint32_t *speed_mbps);
int bh_device_set_link(uint16_t port, int up);
int bh_device_counters(uint16_t port, struct bh_counters *counters);
int bh_device_counters_reset(uint16_t port);
int bh_device_xstats(uint16_t port, struct bh_xstat *stats, uint32_t capacity);
int bh_device_mac(uint16_t port, uint8_t mac[6]);

uint16_t bh_rx_burst(uint16_t port, uint16_t queue, struct bh_frame *frames, uint16_t count,
		     uint64_t discarded[2]);
uint16_t bh_tx_burst(uint16_t port, uint16_t queue, const struct bh_frame *frames, uint16_t count);
void bh_free_bulk(const struct bh_frame *frames, uint16_t count);
int bh_alloc(struct rte_mempool *pool, uint32_t len, struct bh_frame *frame);
int bh_chain(struct bh_frame *head, struct bh_frame *tail);
void bh_mark_stripped(struct bh_frame *frame, uint16_t tci);
int bh_settle(struct bh_frame *frame);

#endif
