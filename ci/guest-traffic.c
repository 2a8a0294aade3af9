/* guest-traffic: data that a test guest sends, and checks byte by byte where it arrives. Part of the guest image (ci/guest-image); also run
 * outside of guests, at the other end of their connections.
 *
 *   guest-traffic receive PORT [PAUSE]            takes one TCP connection, on IPv4 or IPv6, and all that comes until its end; after SIGTERM
 *                                                 without pauses
 *   guest-traffic send ADDRESS PORT BYTES [PAUSE] sends so many bytes on a TCP connection, and waits until the peer has taken them; with 0
 *                                                 until SIGTERM, and prints how many they were
 *   guest-traffic exchange ADDRESS PORT BYTES [PAUSE]
 *                                                 sends on a TCP connection until SIGTERM, at least so many bytes (with none: nothing at all),
 *                                                 and receives until the peer's end meanwhile; ADDRESS is - where the connection is taken.
 *                                                 Prints how many bytes were sent, and how many came
 *   guest-traffic serve PORT                      takes TCP connections for ever, answers eight bytes with the same and closes
 *   guest-traffic connect ADDRESS PORT COUNT N [wait]
 *                                                 makes COUNT such connections, N at a time: none is used before all of them are there, with
 *                                                 wait: and SIGTERM has come, after READY
 *   guest-traffic receive-udp PORT                takes datagrams of one peer in batches, and answers each batch that is complete
 *   guest-traffic send-udp ADDRESS PORT BYTES N [PAUSE]
 *                                                 sends datagrams of N bytes, a batch of them in one call (UDP_SEGMENT, udp(7)); with 0 bytes
 *                                                 until SIGTERM, and prints how many they were
 *
 * PAUSE is the time in milliseconds after each 64 KiB, or batch, for ends that are slow. Addresses are IPv4 or IPv6, a link-local one with %INTERFACE. Receivers print READY when they can be reached, and in the end how many bytes were right. What is sent at an offset of the stream is
 * computed from the offset, so that lost, repeated, moved or changed bytes are told from right ones. The status is 0 only when all
 * was right.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum {
	CHUNK = 1 << 16,
	BATCH = 32,            /* datagrams sent in one call */
	DATAGRAM_MAX = 2000,
	TRIES = 20,            /* of one batch, half a second each */
};

static void fail(const char *what)
{
	fprintf(stderr, "guest-traffic: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void wrong(uint64_t offset)
{
	fprintf(stderr, "guest-traffic: byte %llu of the stream is wrong\n", (unsigned long long)offset);
	exit(1);
}

/* The eight bytes at an offset that is a multiple of 8 (Fibonacci hashing; all bits matter). */
static uint64_t word(uint64_t offset)
{
	uint64_t value = (offset + 8) * 0x9e3779b97f4a7c15;
	return value ^ value >> 29;
}

/* Fills or, with `check`, compares `length` bytes at any offset of the stream. */
static void bytes_at(uint64_t offset, unsigned char *bytes, size_t length, int check)
{
	size_t done = 0;
	while (done < length) {
		uint64_t value = word((offset + done) & ~7ull);
		size_t skip = (offset + done) & 7, count = 8 - skip;
		if (count > length - done)
			count = length - done;
		if (!check)
			memcpy(bytes + done, (unsigned char *)&value + skip, count);
		else if (memcmp(bytes + done, (unsigned char *)&value + skip, count))
			wrong(offset + done);
		done += count;
	}
}

static int listening(int type, const char *port)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons(atoi(port)) };
	int on = 1, off = 0, s = socket(AF_INET6, type, 0);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
	if (s < 0 || bind(s, (struct sockaddr *)&address, sizeof address))
		fail("bind");
	if (type == SOCK_STREAM && listen(s, SOMAXCONN))
		fail("listen");
	puts("READY");
	fflush(stdout);
	return s;
}

static struct sockaddr_in6 peer_at(const char *address, const char *port)
{
	struct sockaddr_in6 peer = { .sin6_family = AF_INET6, .sin6_port = htons(atoi(port)) };
	char text[INET6_ADDRSTRLEN + IF_NAMESIZE], *interface;
	/* An IPv4 address in IPv6's clothes (RFC 4291, 2.5.5.2). */
	snprintf(text, sizeof text, "%s%s", strchr(address, ':') ? "" : "::ffff:", address);
	if ((interface = strchr(text, '%'))) {
		*interface++ = 0;
		peer.sin6_scope_id = if_nametoindex(interface);
	}
	if (inet_pton(AF_INET6, text, &peer.sin6_addr) != 1)
		fail(address);
	return peer;
}

static int connected(int type, const char *address, const char *port)
{
	struct sockaddr_in6 peer = peer_at(address, port);
	int s = socket(AF_INET6, type, 0);
	if (s < 0 || connect(s, (struct sockaddr *)&peer, sizeof peer))
		fail("connect");
	return s;
}

static volatile sig_atomic_t ended;

static void end(int signal)
{
	ended = signal;
}

/* No call fails because of the signal. */
static void end_at_sigterm(void)
{
	struct sigaction action = { .sa_handler = end, .sa_flags = SA_RESTART };
	sigaction(SIGTERM, &action, NULL);
}

static void receive_tcp(const char *port, int pause)
{
	static unsigned char bytes[CHUNK];
	uint64_t offset = 0;
	ssize_t count;
	int s = accept(listening(SOCK_STREAM, port), NULL, NULL);
	if (s < 0)
		fail("accept");
	if (pause)
		end_at_sigterm();
	while ((count = read(s, bytes, sizeof bytes)) > 0) {
		bytes_at(offset, bytes, count, 1);
		if (pause && !ended && (offset + count) / CHUNK != offset / CHUNK)
			usleep(1000 * pause);
		offset += count;
	}
	if (count < 0)
		fail("read");
	/* Tells the sender that all was taken and right. */
	if (write(s, &offset, sizeof offset) != sizeof offset)
		fail("write");
	printf("%llu\n", (unsigned long long)offset);
}

static void send_tcp(const char *address, const char *port, uint64_t length, int pause)
{
	static unsigned char bytes[CHUNK];
	uint64_t offset = 0, taken = 0;
	int s = connected(SOCK_STREAM, address, port);
	if (!length)
		end_at_sigterm();
	while (length ? offset < length : !ended) {
		size_t count = length && length - offset < CHUNK ? length - offset : CHUNK;
		bytes_at(offset, bytes, count, 0);
		for (size_t sent = 0; sent < count;) {
			ssize_t n = write(s, bytes + sent, count - sent);
			if (n <= 0)
				fail("write");
			sent += n;
		}
		offset += count;
		usleep(1000 * pause);
	}
	shutdown(s, SHUT_WR);
	if (read(s, &taken, sizeof taken) != sizeof taken || taken != offset)
		fail("the peer did not take it all");
	if (!length)
		printf("%llu\n", (unsigned long long)offset);
}

static uint64_t milliseconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return 1000ull * now.tv_sec + now.tv_nsec / 1000000;
}

static void exchange(const char *address, const char *port, const char *bytes_to_send, int pause)
{
	static unsigned char bytes[CHUNK];
	int nothing = !strcmp(bytes_to_send, "none"), closed = 0, peer_closed = 0;
	uint64_t least = strtoull(bytes_to_send, NULL, 10), sent = 0, came = 0, next = 0;
	end_at_sigterm();
	int s = strcmp(address, "-") ? connected(SOCK_STREAM, address, port) : accept(listening(SOCK_STREAM, port), NULL, NULL);
	if (s < 0)
		fail("accept");
	fcntl(s, F_SETFL, O_NONBLOCK);
	while (!closed || !peer_closed) {
		if (!closed && (nothing || (ended && sent >= least))) {
			shutdown(s, SHUT_WR);
			closed = 1;
			continue;
		}
		uint64_t now = milliseconds();
		int waits = !closed && !ended && now < next;
		struct pollfd wait = { .fd = s, .events = (peer_closed ? 0 : POLLIN) | (closed || waits ? 0 : POLLOUT) };
		/* Signals that come before it are seen soon. */
		poll(&wait, 1, waits && next - now < 100 ? next - now : 100);
		ssize_t count = peer_closed ? -1 : read(s, bytes, sizeof bytes);
		if (count >= 0) {
			bytes_at(came, bytes, count, 1);
			came += count;
			peer_closed = count == 0;
		} else if (!peer_closed && errno != EAGAIN) {
			fail("read");
		}
		if (wait.revents & POLLOUT) {
			/* To the next multiple, so that pauses are where they should be. */
			size_t part = CHUNK - sent % CHUNK;
			bytes_at(sent, bytes, part, 0);
			count = write(s, bytes, part);
			if (count < 0 && errno != EAGAIN)
				fail("write");
			sent += count < 0 ? 0 : count;
			if (sent % CHUNK == 0)
				next = milliseconds() + pause;
		}
	}
	printf("%llu %llu\n", (unsigned long long)sent, (unsigned long long)came);
}

/* As many descriptors as there may be. */
static void want_descriptors(void)
{
	struct rlimit limit;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static void serve(const char *port)
{
	struct epoll_event event = { .events = EPOLLIN }, events[64];
	uint64_t bytes;
	want_descriptors();
	int listener = listening(SOCK_STREAM, port), set = epoll_create1(0);
	event.data.fd = listener;
	epoll_ctl(set, EPOLL_CTL_ADD, listener, &event);
	for (;;) {
		int count = epoll_wait(set, events, 64, -1);
		for (int i = 0; i < count; i++) {
			int s = events[i].data.fd;
			if (s == listener) {
				event.data.fd = accept(listener, NULL, NULL);
				if (event.data.fd >= 0)
					epoll_ctl(set, EPOLL_CTL_ADD, event.data.fd, &event);
			} else {
				/* What was sent as one comes as one; a peer that has gone is no fault. */
				if (read(s, &bytes, sizeof bytes) == sizeof bytes)
					send(s, &bytes, sizeof bytes, MSG_NOSIGNAL);
				close(s);
			}
		}
	}
}

static void connect_many(const char *address, const char *port, uint64_t total, uint64_t at_a_time, int waits)
{
	struct sockaddr_in6 peer = peer_at(address, port);
	int *sockets = calloc(at_a_time, sizeof *sockets);
	want_descriptors();
	for (uint64_t done = 0; done < total;) {
		uint64_t count = total - done < at_a_time ? total - done : at_a_time, answer;
		for (uint64_t i = 0; i < count; i++) {
			sockets[i] = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
			if (sockets[i] < 0)
				fail("socket");
			if (connect(sockets[i], (struct sockaddr *)&peer, sizeof peer) && errno != EINPROGRESS)
				fail("connect");
		}
		for (uint64_t i = 0; i < count; i++) {
			struct pollfd wait = { .fd = sockets[i], .events = POLLOUT };
			socklen_t size = sizeof errno;
			poll(&wait, 1, -1);
			if (getsockopt(sockets[i], SOL_SOCKET, SO_ERROR, &errno, &size) || errno)
				fail("connect");
			fcntl(sockets[i], F_SETFL, 0);
		}
		if (waits && !done) {
			end_at_sigterm();
			puts("READY");
			fflush(stdout);
			while (!ended)
				poll(NULL, 0, 100);
		}
		for (uint64_t i = 0; i < count; i++) {
			uint64_t question = word(8 * (done + i));
			if (write(sockets[i], &question, sizeof question) != sizeof question)
				fail("write");
		}
		for (uint64_t i = 0; i < count; i++) {
			if (recv(sockets[i], &answer, sizeof answer, MSG_WAITALL) != sizeof answer)
				fail("read");
			if (answer != word(8 * (done + i)))
				wrong(8 * (done + i));
			if (read(sockets[i], &answer, 1) != 0)
				fail("the end");
			close(sockets[i]);
		}
		done += count;
	}
	printf("%llu\n", (unsigned long long)total);
}

/* A batch is BATCH datagrams of the stream, or fewer at its end; a datagram says where it belongs. Its header: */
struct place {
	uint64_t batch;     /* number of the batch */
	uint32_t datagram;  /* number in the batch */
	uint32_t datagrams; /* how many the batch has; 0: the stream has ended */
};

static void receive_udp(const char *port)
{
	static unsigned char bytes[CHUNK];
	struct sockaddr_in6 peer, first;
	struct place place;
	struct iovec data;
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	} control;
	struct msghdr message = { .msg_name = &peer, .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control };
	uint64_t batch = 0, right = 0;
	uint32_t have = 0; /* one bit for each datagram of the batch that has come */
	int s = listening(SOCK_DGRAM, port), on = 1;
	/* Answers go out from the address that was asked. */
	setsockopt(s, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
	for (;;) {
		message.msg_namelen = sizeof peer;
		message.msg_controllen = sizeof control;
		data = (struct iovec){ bytes, sizeof bytes };
		ssize_t count = recvmsg(s, &message, 0);
		if (count < (ssize_t)sizeof place)
			fail("a datagram is too short");
		/* That of the beginning, also where the sender has moved to another machine. */
		if (!right)
			first = peer;
		errno = EADDRNOTAVAIL;
		if (first.sin6_port != peer.sin6_port || memcmp(&first.sin6_addr, &peer.sin6_addr, sizeof peer.sin6_addr))
			fail("a datagram has come from elsewhere");
		memcpy(&place, bytes, sizeof place);
		if (place.datagram >= BATCH || place.datagrams > BATCH)
			fail("a datagram's header is wrong");
		if (place.batch == batch && !(have >> place.datagram & 1)) {
			bytes_at((place.batch * BATCH + place.datagram) * CHUNK, bytes + sizeof place, count - sizeof place, 1);
			have |= 1u << place.datagram;
			right += count - sizeof place;
			if (__builtin_popcount(have) < (int)place.datagrams)
				continue;
			batch++;
			have = 0;
		} else if (place.batch >= batch) {
			continue;
		}
		/* Also for a batch of which the answer was lost. */
		data = (struct iovec){ &place, sizeof place };
		((struct in6_pktinfo *)CMSG_DATA(&control.head))->ipi6_ifindex = 0;
		sendmsg(s, &message, 0);
		if (place.datagrams == 0)
			break;
	}
	printf("%llu\n", (unsigned long long)right);
}

static void send_udp(const char *address, const char *port, uint64_t length, size_t datagram, int pause)
{
	static unsigned char bytes[BATCH * DATAGRAM_MAX];
	struct timeval limit = { .tv_usec = 500000 };
	int s = connected(SOCK_DGRAM, address, port), size = datagram;
	if (datagram <= sizeof(struct place) || datagram > DATAGRAM_MAX)
		fail("datagrams of that size");
	if (setsockopt(s, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size))
		fail("UDP_SEGMENT");
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	size_t payload = datagram - sizeof(struct place);
	uint64_t sent = 0;
	if (!length)
		end_at_sigterm();
	for (uint64_t batch = 0, left = length ? length : UINT64_MAX;; batch++) {
		if (!length && ended)
			left = 0;
		struct place place = { .batch = batch, .datagrams = 0 }, answer;
		size_t total = 0;
		while (place.datagrams < BATCH && left > place.datagrams * payload)
			place.datagrams++;
		uint32_t count = place.datagrams ? place.datagrams : 1;
		for (place.datagram = 0; place.datagram < count; place.datagram++) {
			size_t part = left < payload ? left : payload;
			memcpy(bytes + total, &place, sizeof place);
			bytes_at((batch * BATCH + place.datagram) * CHUNK, bytes + total + sizeof place, part, 0);
			total += sizeof place + part;
			left -= part;
			sent += part;
		}
		for (int tries = 0;; tries++) {
			if (tries == TRIES)
				fail("a batch is not answered");
			if (send(s, bytes, total, 0) != (ssize_t)total)
				fail("send");
			ssize_t n;
			do
				n = recv(s, &answer, sizeof answer, 0);
			while (n == sizeof answer && answer.batch < batch);
			if (n == sizeof answer)
				break;
		}
		if (place.datagrams == 0)
			break;
		usleep(1000 * pause);
	}
	if (!length)
		printf("%llu\n", (unsigned long long)sent);
}

int main(int count, char **words)
{
	if ((count == 3 || count == 4) && !strcmp(words[1], "receive"))
		receive_tcp(words[2], count == 4 ? atoi(words[3]) : 0);
	else if ((count == 5 || count == 6) && !strcmp(words[1], "send"))
		send_tcp(words[2], words[3], strtoull(words[4], NULL, 10), count == 6 ? atoi(words[5]) : 0);
	else if ((count == 5 || count == 6) && !strcmp(words[1], "exchange"))
		exchange(words[2], words[3], words[4], count == 6 ? atoi(words[5]) : 0);
	else if (count == 3 && !strcmp(words[1], "serve"))
		serve(words[2]);
	else if ((count == 6 || (count == 7 && !strcmp(words[6], "wait"))) && !strcmp(words[1], "connect"))
		connect_many(words[2], words[3], strtoull(words[4], NULL, 10), strtoull(words[5], NULL, 10), count == 7);
	else if (count == 3 && !strcmp(words[1], "receive-udp"))
		receive_udp(words[2]);
	else if ((count == 6 || count == 7) && !strcmp(words[1], "send-udp"))
		send_udp(words[2], words[3], strtoull(words[4], NULL, 10), strtoul(words[5], NULL, 10), count == 7 ? atoi(words[6]) : 0);
	else {
		fputs("guest-traffic: see the head of ci/guest-traffic.c\n", stderr);
		return 64;
	}
	return 0;
}
