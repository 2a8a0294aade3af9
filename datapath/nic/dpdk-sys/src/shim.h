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
	CULVERT_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),   /* u64 */
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

/* Send TCP and UDP checksums, and TCP segments of IPv4 and IPv6, made by the device. */
static const uint64_t CULVERT_TX_IPV4_CHECKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t CULVERT_TX_TCP_CHECKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t CULVERT_TX_UDP_CHECKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t CULVERT_TX_TCP_SEGMENTATION = RTE_ETH_TX_OFFLOAD_TCP_TSO;
/* Receive: checksums looked at by the device; frames of more than one buffer; TCP segments joined by the device. */
static const uint64_t CULVERT_RX_CHECKSUM =
	RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t CULVERT_RX_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t CULVERT_RX_LRO = RTE_ETH_RX_OFFLOAD_TCP_LRO;

/* Flags of an mbuf. The L4 flags of receiving are a field of two bits. */
static const uint64_t CULVERT_MBUF_RX_L4_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t CULVERT_MBUF_RX_L4_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t CULVERT_MBUF_RX_L4_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t CULVERT_MBUF_RX_L4_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t CULVERT_MBUF_RX_LRO = RTE_MBUF_F_RX_LRO;
static const uint64_t CULVERT_MBUF_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t CULVERT_MBUF_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t CULVERT_MBUF_TX_IPV4_CHECKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t CULVERT_MBUF_TX_TCP_CHECKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t CULVERT_MBUF_TX_UDP_CHECKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t CULVERT_MBUF_TX_TCP_SEGMENTATION = RTE_MBUF_F_TX_TCP_SEG;

/* The longest headers in bytes that an mbuf can tell of. */
enum culvert_header_limits {
	CULVERT_L2_MOST = (1 << RTE_MBUF_L2_LEN_BITS) - 1,
	CULVERT_L3_MOST = (1 << RTE_MBUF_L3_LEN_BITS) - 1,
	CULVERT_L4_MOST = (1 << RTE_MBUF_L4_LEN_BITS) - 1,
};

/* rte_errno of this thread. */
int culvert_errno(void);

/* Receives up to `count` frames; returns how many. Their first bytes are fetched. */
uint16_t culvert_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);

/*
 * Sends. Frames that the driver says it cannot send as they ask to be (tx_prepare), and chains where `chains` is false,
 * are first moved behind the others, in order. Returns how many frames, from the front, the driver has taken.
 */
uint16_t culvert_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count, bool chains);

/* Asks the device for what `flags` (CULVERT_MBUF_TX_*, in place of all earlier ones) say. Lengths in bytes, within the limits above. */
void culvert_request_offload(struct rte_mbuf *frame, uint64_t flags, uint16_t l2, uint16_t l3, uint16_t l4, uint16_t segment_size);

/* tso_segsz: payload bytes of each segment that a received frame was joined from. */
uint16_t culvert_rx_segment_size(const struct rte_mbuf *frame);

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

/*
 * Allocates `count` frames of one buffer each, without bytes. False, with none allocated, where the pool has not as many. The lengths are
 * the caller's to set.
 */
bool culvert_allocate_empty(struct rte_mempool *pool, struct rte_mbuf **frames, uint16_t count);

/* Frees `count` frames; a null pointer is none. */
void culvert_free(struct rte_mbuf **frames, uint16_t count);

/* Speed in Mbit/s (RTE_ETH_SPEED_NUM_UNKNOWN where the driver does not know). Returns 0 or a negative errno. */
int culvert_link(uint16_t port, bool *up, uint32_t *speed);

/*
 * Has users of the port, a bond for one, look for its link instead of waiting for an interrupt: takes back the driver's
 * word that there is one. Returns 0 or a negative errno.
 */
int culvert_poll_link(uint16_t port);

/* Hands DPDK's log, a write at a time, to `sink`. Returns 0 or a negative errno. */
typedef void (*culvert_log_sink)(const char *text, size_t length);
int culvert_log_to(culvert_log_sink sink);

#endif
