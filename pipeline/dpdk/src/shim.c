/* See shim.h. */
#define _GNU_SOURCE

#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_common.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_mempool.h>
#include <rte_prefetch.h>
#include <rte_version.h>

#define BURST 64
#define ADDRESS_HASH (RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_FRAG_IPV4 | RTE_ETH_RSS_IPV6 | \
		      RTE_ETH_RSS_FRAG_IPV6 | RTE_ETH_RSS_IPV6_EX)
#define PORT_HASH (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_SCTP)

/* ---- Environment ---- */

static bh_log_fn log_sink;

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	int level = rte_log_cur_msg_loglevel();

	log_sink(level < 0 ? RTE_LOG_INFO : (uint32_t)level, text, len);
	return (ssize_t)len;
}

static int log_library(int level, const char *format, va_list arguments)
{
	char text[512];
	int len = vsnprintf(text, sizeof(text), format, arguments);

	/* libbpf and libxdp: 0 is a warning, 1 information, 2 debugging. */
	if (len > 0 && log_sink)
		log_sink(level == 0 ? RTE_LOG_WARNING : RTE_LOG_DEBUG, text,
			 RTE_MIN((size_t)len, sizeof(text) - 1));
	return len;
}

const char *bh_version(void)
{
	return rte_version();
}

int bh_log_to(bh_log_fn sink)
{
	cookie_io_functions_t functions = { .write = log_write };
	FILE *stream;

	log_sink = sink;
	stream = fopencookie(NULL, "w", functions);
	if (!stream)
		return -errno;
	setvbuf(stream, NULL, _IOLBF, 512);
	return rte_openlog_stream(stream) ? -EIO : 0;
}

/* libbpf and libxdp, which the AF_XDP driver brings, write to standard error unless told otherwise. */
void bh_log_hush_libraries(void)
{
	static const struct { const char *library, *setter; } each[] = {
		{ "libbpf.so.1", "libbpf_set_print" },
		{ "libbpf.so.0", "libbpf_set_print" },
		{ "libxdp.so.1", "libxdp_set_print" },
	};

	for (size_t i = 0; i < RTE_DIM(each); i++) {
		void *library = dlopen(each[i].library, RTLD_LAZY | RTLD_NOLOAD);
		void *(*set)(int (*)(int, const char *, va_list));

		if (!library)
			continue;
		*(void **)&set = dlsym(library, each[i].setter);
		if (set)
			set(log_library);
		dlclose(library);
	}
}

int bh_eal_init(int argc, char **argv)
{
	return rte_eal_init(argc, argv) < 0 ? -(rte_errno ? rte_errno : EINVAL) : 0;
}

int bh_thread_register(void)
{
	return rte_thread_register() < 0 ? -(rte_errno ? rte_errno : EINVAL) : 0;
}

void bh_thread_unregister(void)
{
	rte_thread_unregister();
}

/* ---- Buffers ---- */

/* DPDK's own operations on a pool, and what this thread has taken out of one by them and not put back, while that
 * is watched. Threads' caches lie before them, so that they are called for many buffers at once. */
static struct rte_mempool_ops plain;
static __thread struct {
	void **buffers;
	uint32_t count, room;
} taken;

static int watched_dequeue(struct rte_mempool *pool, void **buffers, unsigned int count)
{
	int status = plain.dequeue(pool, buffers, count);

	if (taken.buffers && status == 0) {
		uint32_t noted = RTE_MIN(count, taken.room - taken.count);

		memcpy(taken.buffers + taken.count, buffers, noted * sizeof(*buffers));
		taken.count += noted;
	}
	return status;
}

static int watched_enqueue(struct rte_mempool *pool, void *const *buffers, unsigned int count)
{
	for (unsigned int i = 0; taken.count && i < count; i++)
		for (uint32_t j = 0; j < taken.count; j++)
			if (taken.buffers[j] == buffers[i]) {
				taken.buffers[j] = taken.buffers[--taken.count];
				break;
			}
	return plain.enqueue(pool, buffers, count);
}

static const char *watched_operations(void)
{
	static const char name[] = "bulkhead";
	struct rte_mempool_ops watched;

	if (plain.dequeue)
		return name;
	for (uint32_t i = 0; i < rte_mempool_ops_table.num_ops; i++)
		if (strcmp(rte_mempool_ops_table.ops[i].name, rte_mbuf_best_mempool_ops()) == 0)
			plain = rte_mempool_ops_table.ops[i];
	if (!plain.dequeue)
		return NULL;
	watched = plain;
	snprintf(watched.name, sizeof(watched.name), "%s", name);
	watched.dequeue = watched_dequeue;
	watched.enqueue = watched_enqueue;
	return rte_mempool_register_ops(&watched) < 0 ? NULL : name;
}

struct rte_mempool *bh_pool_create(const char *name, uint32_t count, uint32_t cache,
				   uint16_t data_room, int32_t *error)
{
	const char *operations = watched_operations();
	struct rte_mempool *pool = NULL;

	rte_errno = ENOTSUP;
	if (operations)
		pool = rte_pktmbuf_pool_create_by_ops(name, count, cache, 0, data_room,
						      SOCKET_ID_ANY, operations);
	*error = pool ? 0 : -rte_errno;
	return pool;
}

static void empty_cache(struct rte_mempool *pool)
{
	struct rte_mempool_cache *cache = rte_mempool_default_cache(pool, rte_lcore_id());

	if (cache)
		rte_mempool_cache_flush(cache, pool);
}

int bh_pool_watch(struct rte_mempool *pool)
{
	empty_cache(pool);
	taken.buffers = calloc(pool->size, sizeof(*taken.buffers));
	taken.room = taken.buffers ? pool->size : 0;
	taken.count = 0;
	return taken.buffers ? 0 : -ENOMEM;
}

void bh_pool_unwatch(struct rte_mempool *pool, int put_back)
{
	void **buffers = taken.buffers;
	uint32_t count;

	empty_cache(pool);
	count = taken.count;
	memset(&taken, 0, sizeof(taken));
	if (put_back && count)
		rte_mempool_generic_put(pool, buffers, count, NULL);
	free(buffers);
}

uint32_t bh_pool_available(const struct rte_mempool *pool)
{
	return rte_mempool_avail_count(pool);
}

uint32_t bh_pool_chunks(const struct rte_mempool *pool)
{
	return pool->nb_mem_chunks;
}

uint32_t bh_pool_element_size(const struct rte_mempool *pool)
{
	return pool->header_size + pool->elt_size + pool->trailer_size;
}

/* ---- Devices ---- */

int bh_device_probe(const char *devargs, uint16_t *port, const char **call)
{
	struct rte_dev_iterator iterator;
	char name[RTE_ETH_NAME_MAX_LEN];
	uint16_t found;
	int status;

	/* Probing a device again succeeds, and would make two ports of one. */
	*call = "rte_eth_dev_get_port_by_name";
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(devargs, ","), devargs);
	if (rte_eth_dev_get_port_by_name(name, &found) == 0)
		return -EEXIST;
	*call = "rte_dev_probe";
	status = rte_dev_probe(devargs);
	if (status < 0)
		return status;
	/* A device may have several ports: the first is taken, the others are left closed. */
	RTE_ETH_FOREACH_MATCHING_DEV(found, devargs, &iterator) {
		*port = found;
		rte_eth_iterator_cleanup(&iterator);
		return 0;
	}
	*call = "rte_eth_iterator_next";
	return -ENODEV;
}

static int hashes_addresses(const struct rte_eth_dev_info *info)
{
	return (info->flow_type_rss_offloads & RTE_ETH_RSS_IPV4) &&
	       (info->flow_type_rss_offloads & RTE_ETH_RSS_IPV6);
}

int bh_device_info(uint16_t port, struct bh_device_info *info)
{
	struct rte_eth_dev_info from;
	int status = rte_eth_dev_info_get(port, &from);

	if (status)
		return status;
	memset(info, 0, sizeof(*info));
	snprintf(info->driver, sizeof(info->driver), "%s",
		 from.driver_name ? from.driver_name : "unknown");
	info->max_rx_queues = from.max_rx_queues;
	info->max_tx_queues = from.max_tx_queues;
	info->min_mtu = from.min_mtu;
	info->max_mtu = from.max_mtu;
	info->rss_key_len = from.flow_type_rss_offloads & PORT_HASH ? from.hash_key_size : 0;
	info->rss_on_addresses = hashes_addresses(&from);
	info->rss_table_len = from.reta_size;
	info->socket = rte_eth_dev_socket_id(port);
	return rte_eth_dev_get_mtu(port, &info->mtu);
}

int bh_device_configure(uint16_t port, const struct bh_device_config *config, const char **call)
{
	struct rte_eth_conf conf;
	struct rte_eth_dev_info info;
	uint16_t rx = config->rx_descriptors, tx = config->tx_descriptors, queue;
	int status;

	memset(&conf, 0, sizeof(conf));
	*call = "rte_eth_dev_info_get";
	status = rte_eth_dev_info_get(port, &info);
	if (status)
		return status;

	conf.rxmode.mtu = config->mtu;
	/* Drivers that would split a long frame may: the pieces are joined on reception. */
	if (config->mtu + RTE_ETHER_HDR_LEN + 8 > rte_pktmbuf_data_room_size(config->pool) -
						  RTE_PKTMBUF_HEADROOM)
		conf.rxmode.offloads |= info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
	if (config->rss_key) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_key = (uint8_t *)(uintptr_t)config->rss_key;
		conf.rx_adv_conf.rss_conf.rss_key_len = info.hash_key_size;
		/* A driver without a hash of the addresses of all packets hashes some with their
		 * ports, and all of them rather than leave TCP and UDP to the first queue. */
		conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads &
			(hashes_addresses(&info) ? ADDRESS_HASH : PORT_HASH);
	}
	*call = "rte_eth_dev_configure";
	status = rte_eth_dev_configure(port, config->queues, config->queues, &conf);
	if (status)
		return status;

	*call = "rte_eth_dev_adjust_nb_rx_tx_desc";
	status = rte_eth_dev_adjust_nb_rx_tx_desc(port, &rx, &tx);
	if (status)
		return status;
	for (queue = 0; queue < config->queues; queue++) {
		struct rte_eth_rxconf rx_conf = info.default_rxconf;
		struct rte_eth_txconf tx_conf = info.default_txconf;
		int socket = rte_eth_dev_socket_id(port);

		rx_conf.offloads = conf.rxmode.offloads;
		tx_conf.offloads = 0;
		*call = "rte_eth_rx_queue_setup";
		status = rte_eth_rx_queue_setup(port, queue, rx, (unsigned int)socket, &rx_conf,
						config->pool);
		if (status)
			return status;
		*call = "rte_eth_tx_queue_setup";
		status = rte_eth_tx_queue_setup(port, queue, tx, (unsigned int)socket, &tx_conf);
		if (status)
			return status;
	}
	return 0;
}

int bh_device_start(uint16_t port)
{
	return rte_eth_dev_start(port);
}

int bh_device_stop(uint16_t port)
{
	return rte_eth_dev_stop(port);
}

int bh_device_remove(uint16_t port, const char **call)
{
	struct rte_eth_dev_info info;
	int status;

	*call = "rte_eth_dev_info_get";
	status = rte_eth_dev_info_get(port, &info);
	if (status)
		return status;
	*call = "rte_eth_dev_close";
	status = rte_eth_dev_close(port);
	if (status)
		return status;
	*call = "rte_dev_remove";
	return rte_dev_remove(info.device);
}

int bh_device_promiscuous(uint16_t port, int on)
{
	return on ? rte_eth_promiscuous_enable(port) : rte_eth_promiscuous_disable(port);
}

int bh_device_link(uint16_t port, int *up, uint32_t *speed_mbps)
{
	struct rte_eth_link link;
	int status;

	memset(&link, 0, sizeof(link));
	status = rte_eth_link_get_nowait(port, &link);
	*up = link.link_status == RTE_ETH_LINK_UP;
	*speed_mbps = link.link_speed;
	return status;
}

int bh_device_set_link(uint16_t port, int up)
{
	return up ? rte_eth_dev_set_link_up(port) : rte_eth_dev_set_link_down(port);
}

int bh_device_counters(uint16_t port, struct bh_counters *counters)
{
	struct rte_eth_stats stats;
	int status = rte_eth_stats_get(port, &stats);

	if (status)
		return status;
	counters->missed = stats.imissed;
	counters->receive_errors = stats.ierrors;
	counters->transmit_errors = stats.oerrors;
	counters->no_buffer = stats.rx_nombuf;
	return 0;
}

int bh_device_counters_reset(uint16_t port)
{
	return rte_eth_stats_reset(port);
}

int bh_device_xstats(uint16_t port, struct bh_xstat *stats, uint32_t capacity)
{
	struct rte_eth_xstat values[256];
	struct rte_eth_xstat_name names[256];
	int count, written = 0;

	if (capacity == 0)
		return rte_eth_xstats_get(port, NULL, 0);
	count = rte_eth_xstats_get(port, values, RTE_DIM(values));
	if (count < 0)
		return count;
	if (count > (int)RTE_DIM(values))
		return -E2BIG;
	count = rte_eth_xstats_get_names(port, names, RTE_DIM(names));
	if (count < 0)
		return count;
	if (count > (int)RTE_DIM(names))
		return -E2BIG;
	for (int i = 0; i < count && (uint32_t)written < capacity; i++) {
		if (values[i].id >= (uint64_t)count)
			continue;
		snprintf(stats[written].name, sizeof(stats[written].name), "%s",
			 names[values[i].id].name);
		stats[written++].value = values[i].value;
	}
	return written;
}

int bh_device_mac(uint16_t port, uint8_t mac[6])
{
	struct rte_ether_addr address;
	int status = rte_eth_macaddr_get(port, &address);

	if (!status)
		memcpy(mac, address.addr_bytes, sizeof(address.addr_bytes));
	return status;
}

/* ---- Bursts ---- */

/* Puts back a tag that the driver took out. Returns 0, or -1 where the buffer has no room. */
static int reinsert_tag(struct rte_mbuf *mbuf)
{
	if (mbuf->ol_flags & RTE_MBUF_F_RX_QINQ_STRIPPED)
		return -1; /* the outer tag's EtherType is lost: it cannot be put back as it was */
	return rte_vlan_insert(&mbuf);
}

/* Makes `mbuf` one contiguous, complete frame without offload flags. Returns 0, or -1 where it
 * cannot be. The common case tests two fields of a cache line that is read anyway. */
static inline int settle(struct rte_mbuf *mbuf)
{
	if (unlikely(mbuf->nb_segs > 1) && rte_pktmbuf_linearize(mbuf))
		return -1;
	if (unlikely(mbuf->ol_flags & (RTE_MBUF_F_RX_VLAN_STRIPPED | RTE_MBUF_F_RX_QINQ_STRIPPED)) &&
	    reinsert_tag(mbuf))
		return -1;
	/* What reception left in the flags must not ask for anything on transmission; the two that
	 * say whose the buffer is stay. */
	mbuf->ol_flags &= RTE_MBUF_F_EXTERNAL | RTE_MBUF_F_INDIRECT;
	return 0;
}

uint16_t bh_rx_burst(uint16_t port, uint16_t queue, struct bh_frame *frames, uint16_t count,
		     uint64_t discarded[2])
{
	struct rte_mbuf *mbufs[BURST];
	uint16_t received, kept = 0;

	received = rte_eth_rx_burst(port, queue, mbufs, RTE_MIN(count, (uint16_t)BURST));
	for (uint16_t i = 0; i < received; i++)
		rte_prefetch0(rte_pktmbuf_mtod(mbufs[i], void *));
	for (uint16_t i = 0; i < received; i++) {
		struct rte_mbuf *mbuf = mbufs[i];

		if (unlikely(settle(mbuf))) {
			discarded[0]++;
			discarded[1] += mbuf->pkt_len;
			rte_pktmbuf_free(mbuf);
			continue;
		}
		frames[kept].mbuf = mbuf;
		frames[kept].data = rte_pktmbuf_mtod(mbuf, uint8_t *);
		frames[kept].len = mbuf->data_len;
		frames[kept].reserved = 0;
		kept++;
	}
	return kept;
}

uint16_t bh_tx_burst(uint16_t port, uint16_t queue, const struct bh_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[BURST];

	count = RTE_MIN(count, (uint16_t)BURST);
	for (uint16_t i = 0; i < count; i++)
		mbufs[i] = frames[i].mbuf;
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

void bh_free_bulk(const struct bh_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[BURST];

	count = RTE_MIN(count, (uint16_t)BURST);
	for (uint16_t i = 0; i < count; i++)
		mbufs[i] = frames[i].mbuf;
	rte_pktmbuf_free_bulk(mbufs, count);
}

int bh_alloc(struct rte_mempool *pool, uint32_t len, struct bh_frame *frame)
{
	struct rte_mbuf *mbuf;
	char *data;

	if (len > UINT16_MAX)
		return -EMSGSIZE;
	mbuf = rte_pktmbuf_alloc(pool);
	if (!mbuf)
		return -ENOMEM;
	data = rte_pktmbuf_append(mbuf, (uint16_t)len);
	if (!data) {
		rte_pktmbuf_free(mbuf);
		return -EMSGSIZE;
	}
	memset(data, 0, len);
	frame->mbuf = mbuf;
	frame->data = (uint8_t *)data;
	frame->len = len;
	frame->reserved = 0;
	return 0;
}

/* ---- For tests: what drivers hand over that the virtual ones never do ---- */

int bh_chain(struct bh_frame *head, struct bh_frame *tail)
{
	return rte_pktmbuf_chain(head->mbuf, tail->mbuf);
}

void bh_mark_stripped(struct bh_frame *frame, uint16_t tci)
{
	frame->mbuf->vlan_tci = tci;
	frame->mbuf->ol_flags |= RTE_MBUF_F_RX_VLAN | RTE_MBUF_F_RX_VLAN_STRIPPED;
}

int bh_settle(struct bh_frame *frame)
{
	if (settle(frame->mbuf))
		return -1;
	frame->data = rte_pktmbuf_mtod(frame->mbuf, uint8_t *);
	frame->len = frame->mbuf->data_len;
	return 0;
}
