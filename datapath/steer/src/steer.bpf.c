/* SPDX-License-Identifier: Apache-2.0
 *
 * For each packet of a network namespace that belongs to no connection, the kernel asks this program before it looks for
 * a listening or unconnected socket (BPF_PROG_TYPE_SK_LOOKUP, Documentation/bpf/prog_sk_lookup.rst). It looks up the
 * destination's port in a table, and nothing else: who forwards what is decided by whoever writes the table, from
 * memory that it shares with the kernel. Loaded by lib.rs, where the layout of the table is as well.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

/* What becomes of a port. */
enum fate {
	LEAVE = 0, /* The kernel looks for a socket, as without us. */
	STEER = 1, /* It goes to our socket. */
	CLOSE = 2, /* Nobody is there, whoever listens. */
};

/* A byte for each port of a protocol. */
struct ports {
	__u8 fates[65536];
};

/* The protocols' places in both tables. */
enum protocol {
	TCP = 0,
	UDP = 1,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct ports);
} ports SEC(".maps");

/* Our sockets: that of TCP listens. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

SEC("sk_lookup")
int steer(struct bpf_sk_lookup *packet)
{
	__u32 protocol = packet->protocol == IPPROTO_UDP ? UDP : TCP;
	struct ports *table = bpf_map_lookup_elem(&ports, &protocol);
	if (!table)
		return SK_PASS;

	__u8 fate = table->fates[packet->local_port & 0xffff];
	if (fate == CLOSE)
		return SK_DROP;
	if (fate != STEER)
		return SK_PASS;

	struct bpf_sock *socket = bpf_map_lookup_elem(&sockets, &protocol);
	if (!socket)
		return SK_PASS;
	/* It fails where another program has chosen a socket already: then that one it is. */
	bpf_sk_assign(packet, socket, 0);
	bpf_sk_release(socket);
	return SK_PASS;
}

/* The kernel lends some functions to programs of its own license only, none of them to this one. */
char LICENSE[] SEC("license") = "Apache-2.0";
