/* See shim.h. */

#define _GNU_SOURCE /* fopencookie */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "shim.h"

#define WIDTH(member, type) \
	_Static_assert(sizeof(((struct rte_mbuf *)0)->member) == sizeof(type), "rte_mbuf." #member " has changed its width")

WIDTH(buf_addr, void *);
WIDTH(data_off, uint16_t);
WIDTH(nb_segs, uint16_t);
WIDTH(pkt_len, uint32_t);
WIDTH(data_len, uint16_t);
WIDTH(buf_len, uint16_t);
WIDTH(next, struct rte_mbuf *);
WIDTH(ol_flags, uint64_t);

size_t culvert_mbuf_layout_of_c(size_t *values, size_t room)
{
	const size_t layout[] = {
		offsetof(struct rte_mbuf, buf_addr), offsetof(struct rte_mbuf, data_off), offsetof(struct rte_mbuf, nb_segs),
		offsetof(struct rte_mbuf, pkt_len),  offsetof(struct rte_mbuf, data_len), offsetof(struct rte_mbuf, buf_len),
		offsetof(struct rte_mbuf, next),     offsetof(struct rte_mbuf, ol_flags), sizeof(struct rte_mbuf),
	};
	const size_t count = sizeof(layout) / sizeof(layout[0]);

	memcpy(values, layout, (room < count ? room : count) * sizeof(layout[0]));
	return count;
}

int culvert_errno(void)
{
	return rte_errno;
}

uint16_t culvert_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count)
{
	count = rte_eth_rx_burst(port, queue, frames, count);
	/* The bytes of all are on their way when those of the first are looked at. */
	for (uint16_t i = 0; i < count; i++)
		rte_prefetch0(rte_pktmbuf_mtod(frames[i], void *));
	return count;
}

/* Moves frames that cannot be sent behind the others, in order, and returns the number of the others. */
static uint16_t prepare(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count, bool chains)
{
	const uint16_t all = count;
	uint16_t good = 0;

	while (good < count) {
		struct rte_mbuf *refused;

		/* Stops at the first frame that the driver refuses. */
		good += rte_eth_tx_prepare(port, queue, frames + good, count - good);
		for (uint16_t i = 0; !chains && i < good; i++)
			if (frames[i]->nb_segs > 1)
				good = i;
		if (good < count) {
			refused = frames[good];
			memmove(frames + good, frames + good + 1, (all - good - 1) * sizeof(*frames));
			frames[all - 1] = refused;
			count--;
		}
	}
	return good;
}

uint16_t culvert_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count, bool chains)
{
	uint64_t flags = 0;
	uint16_t segments = 1;

	for (uint16_t i = 0; i < count; i++) {
		flags |= frames[i]->ol_flags;
		segments |= frames[i]->nb_segs;
	}
	if ((flags & RTE_MBUF_F_TX_OFFLOAD_MASK) || (!chains && segments > 1))
		count = prepare(port, queue, frames, count, chains);
	return count == 0 ? 0 : rte_eth_tx_burst(port, queue, frames, count);
}

void culvert_request_offload(struct rte_mbuf *frame, uint64_t flags, uint16_t l2, uint16_t l3, uint16_t l4, uint16_t segment_size)
{
	frame->ol_flags = (frame->ol_flags & ~RTE_MBUF_F_TX_OFFLOAD_MASK) | flags;
	frame->tx_offload = 0;
	frame->l2_len = l2;
	frame->l3_len = l3;
	frame->l4_len = l4;
	frame->tso_segsz = segment_size;
}

uint16_t culvert_rx_segment_size(const struct rte_mbuf *frame)
{
	return frame->tso_segsz;
}

struct rte_mempool *culvert_pool_across_pages(const char *name, unsigned int buffers, unsigned int cache, uint16_t data_room)
{
	struct rte_pktmbuf_pool_private private = { .mbuf_data_room_size = data_room };

	return rte_mempool_create(name, buffers, sizeof(struct rte_mbuf) + data_room, cache, sizeof(private),
				  rte_pktmbuf_pool_init, &private, rte_pktmbuf_init, NULL, SOCKET_ID_ANY,
				  RTE_MEMPOOL_F_NO_IOVA_CONTIG);
}

/* Sets the lengths of a fresh mbuf, adding buffers until `length` fits. False, with nothing changed hands, when the pool is empty. */
static bool set_length(struct rte_mempool *pool, struct rte_mbuf *head, uint32_t length)
{
	struct rte_mbuf *last = head;
	uint32_t left = length;
	uint16_t room = rte_pktmbuf_tailroom(head);

	head->pkt_len = length;
	head->data_len = left < room ? left : room;
	left -= head->data_len;
	while (left > 0) {
		struct rte_mbuf *next = head->nb_segs < RTE_MBUF_MAX_NB_SEGS ? rte_pktmbuf_alloc(pool) : NULL;

		if (next == NULL)
			return false;
		room = rte_pktmbuf_tailroom(next);
		next->data_len = left < room ? left : room;
		left -= next->data_len;
		last->next = next;
		last = next;
		head->nb_segs++;
	}
	return true;
}

uint16_t culvert_allocate(struct rte_mempool *pool, const uint32_t *lengths, uint16_t count, struct rte_mbuf **frames)
{
	bool all = rte_pktmbuf_alloc_bulk(pool, frames, count) == 0;

	for (uint16_t i = 0; i < count; i++) {
		if (!all && (frames[i] = rte_pktmbuf_alloc(pool)) == NULL)
			return i;
		if (!set_length(pool, frames[i], lengths[i])) {
			rte_pktmbuf_free_bulk(&frames[i], all ? count - i : 1);
			return i;
		}
	}
	return count;
}

bool culvert_allocate_empty(struct rte_mempool *pool, struct rte_mbuf **frames, uint16_t count)
{
	if (rte_mempool_get_bulk(pool, (void **)frames, count) < 0)
		return false;
	/*
	 * A buffer comes from its pool with one user, in one segment, without a next one (rte_mbuf_raw_alloc()). All that is left to be set is
	 * in the mbuf's first cache line; what is in the other one counts only where a flag says so.
	 */
	for (uint16_t i = 0; i < count; i++) {
		struct rte_mbuf *frame = frames[i];

		rte_pktmbuf_reset_headroom(frame);
		__builtin_prefetch(rte_pktmbuf_mtod(frame, void *), 1);
		frame->port = RTE_MBUF_PORT_INVALID;
		frame->ol_flags = 0;
		frame->packet_type = 0;
		frame->pkt_len = 0;
		frame->data_len = 0;
		frame->vlan_tci = 0;
	}
	return true;
}

void culvert_free(struct rte_mbuf **frames, uint16_t count)
{
	struct rte_mbuf *held[32];
	struct rte_mempool *pool = NULL;
	unsigned int many = 0;

	for (uint16_t i = 0; i < count; i++) {
		struct rte_mbuf *frame = frames[i];

		if (unlikely(frame == NULL))
			continue;
		/* Segments, and buffers with other users or elsewhere, are DPDK's matter. */
		if (unlikely(frame->nb_segs != 1 || !RTE_MBUF_DIRECT(frame) || rte_mbuf_refcnt_read(frame) != 1)) {
			rte_pktmbuf_free(frame);
			continue;
		}
		if (unlikely(frame->pool != pool || many == RTE_DIM(held))) {
			if (many > 0)
				rte_mempool_put_bulk(pool, (void **)held, many);
			pool = frame->pool;
			many = 0;
		}
		held[many++] = frame;
	}
	if (many > 0)
		rte_mempool_put_bulk(pool, (void **)held, many);
}

int culvert_link(uint16_t port, bool *up, uint32_t *speed)
{
	struct rte_eth_link link;
	int result;

	memset(&link, 0, sizeof(link));
	result = rte_eth_link_get_nowait(port, &link);
	*up = link.link_status == RTE_ETH_LINK_UP;
	*speed = link.link_speed;
	return result;
}

int culvert_poll_link(uint16_t port)
{
	struct rte_eth_dev_info info;
	int result = rte_eth_dev_info_get(port, &info);

	/* The flags are the port's own; DPDK gives no other way to write to them. */
	if (result == 0)
		*(uint32_t *)(uintptr_t)info.dev_flags &= ~RTE_ETH_DEV_INTR_LSC;
	return result;
}

static culvert_log_sink log_sink;

static ssize_t log_write(void *cookie, const char *text, size_t length)
{
	log_sink(text, length);
	return (ssize_t)length;
}

int culvert_log_to(culvert_log_sink sink)
{
	const cookie_io_functions_t functions = { .write = log_write };
	FILE *stream;

	log_sink = sink;
	stream = fopencookie(NULL, "w", functions);
	if (stream == NULL)
		return -errno;
	/* Every rte_log() flushes the stream: a message arrives whole, in its thread, while its level can still be asked for. */
	return rte_openlog_stream(stream);
}
