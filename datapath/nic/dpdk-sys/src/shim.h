/*
 * What the Rust side cannot take from DPDK's headers as they are: static inline functions, wrapped once per
 * burst, and the places of an mbuf's members, which differ between releases. bindgen reads this file; shim.c
 * is compiled against the same headers.
 */
#ifndef CULVERT_DPDK_SHIM_H
#define CULVERT_DPDK_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Offsets in bytes; the widths of the members are asserted in shim.c. */
enum culvert_mbuf_layout {
	CULVERT_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),   /* void * */
	CULVERT_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),   /* u16 */
	CULVERT_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),     /* u16 */
	CULVERT_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),     /* u32 */
	CULVERT_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),   /* u16 */
	CULVERT_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),     /* u16 */
	CULVERT_MBUF_NEXT = offsetof(struct rte_mbuf, next),           /* struct rte_mbuf * */
	CULVERT_MBUF_SIZE = sizeof(struct rte_mbuf),
};

/* Free bytes in front of a frame in its buffer, as mbufs come. */
static const uint16_t CULVERT_HEADROOM = RTE_PKTMBUF_HEADROOM;

/* The layout as the C compiler sees them, in the order above, for the layout test. Returns their count. */
size_t culvert_mbuf_layout_of_c(size_t *values, size_t room);

/* Year and month of the headers' release, as 2211 for 22.11. */
enum culvert_dpdk { CULVERT_DPDK_RELEASE = RTE_VER_YEAR * 100 + RTE_VER_MONTH };

/* Spread over receive queues by the addresses and ports of IP packets. */
static const uint64_t CULVERT_HASH_IP = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
/* Send frames of more than one segment. */
static const uint64_t CULVERT_TX_MULTI_SEGMENT = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

/* rte_errno of this thread. */
int culvert_errno(void);

uint16_t culvert_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);
uint16_t culvert_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);

/*
 * Makes a pool of mbufs without regard to pages, for memory in ordinary pages that no hardware reads: DPDK's own
 * function would give each buffer pages of its own. NULL, and culvert_errno(), on failure.
 */
struct rte_mempool *culvert_pool_across_pages(const char *name, unsigned int buffers, unsigned int cache, uint16_t data_room);

/*
 * Allocates up to `count` frames of the given lengths in bytes, as chains where one buffer does not do, with all
 * length members set. Returns how many there are, from the front; fewer when the pool is empty.
 */
uint16_t culvert_allocate(struct rte_mempool *pool, const uint32_t *lengths, uint16_t count, struct rte_mbuf **frames);

/* Speed in Mbit/s (RTE_ETH_SPEED_NUM_UNKNOWN where the driver does not know). Returns 0 or a negative errno. */
int culvert_link(uint16_t port, bool *up, uint32_t *speed);

/* Hands DPDK's log, a write at a time, to `sink`. Returns 0 or a negative errno. */
typedef void (*culvert_log_sink)(const char *text, size_t length);
int culvert_log_to(culvert_log_sink sink);

#endif
