/* Passes frames between an interface and a tap device that it makes, late and with losses.

       impair INTERFACE TAP DELAY_US JITTER_US LOSS_PPM SEED

   Goes to the background when it does, so whoever started it knows that. Each frame is held for DELAY plus a uniform random time within
   +-JITTER, and never overtakes another of its direction. LOSS_PPM of a million frames are dropped
   in each direction, by a generator that SEED starts. The tap device goes when the process ends.

   Frames carry the kernel's virtio header on both sides, so checksums that the sender left to the
   hardware are not lost. The sender must not hand over frames of many segments (gso_max_segs 1),
   or one loss takes them all. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HELD 16384     /* frames of one direction: 250 ms of 800 Mbit/s */
#define LARGEST 65600  /* bytes of a frame and its header */
#define BATCH 64       /* frames read before those that are due are looked at again */

struct frame { int64_t due_ns; size_t size; char *bytes; };

struct direction {
    int from, to;
    uint64_t random;
    int64_t last_due_ns;
    unsigned first, count;
    struct frame held[HELD];
};

static int64_t delay_ns, jitter_ns;
static uint64_t loss_ppm;
static struct direction ways[2];

static void fail(const char *what) {
    fprintf(stderr, "impair: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static int open_tap(const char *name) {
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) fail(name);
    return fd;
}

static int open_interface(const char *name) {
    int on = 1, bytes = 32 << 20;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    if (fd < 0) fail("packet socket");
    /* Both before it is bound: a frame without the header, or one of our own, would come first. */
    if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) < 0) fail("virtio header");
    if (setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) < 0) fail("outgoing");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0) fail("buffer");
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0) fail("buffer");
    if (!(address.sll_ifindex = (int)if_nametoindex(name))) fail(name);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) fail(name);
    return fd;
}

static void hold(struct direction *way, const char *bytes, size_t size, int64_t now) {
    if (next_random(&way->random) % 1000000 < loss_ppm || way->count == HELD) return;
    int64_t due = now + delay_ns;
    if (jitter_ns)
        due += (int64_t)(next_random(&way->random) % (uint64_t)(2 * jitter_ns + 1)) - jitter_ns;
    if (due < way->last_due_ns) due = way->last_due_ns;
    way->last_due_ns = due;
    struct frame *frame = &way->held[(way->first + way->count++) % HELD];
    if (!(frame->bytes = malloc(size))) fail("memory");
    memcpy(frame->bytes, bytes, size);
    frame->size = size;
    frame->due_ns = due;
}

static void take_in(struct direction *way) {
    static char buffer[LARGEST];
    for (int i = 0; i < BATCH; i++) {
        ssize_t size = read(way->from, buffer, sizeof buffer);
        if (size > 0) hold(way, buffer, (size_t)size, now_ns());
        else if (errno == EAGAIN || errno == ENETDOWN || errno == EIO) return; /* a cut link */
        else if (errno != EINTR) fail("read");
    }
}

/* Sends what is due; when the next one is, or -1 if none is held. */
static int64_t send_due(struct direction *way, int64_t now) {
    while (way->count) {
        struct frame *frame = &way->held[way->first];
        if (frame->due_ns > now) return frame->due_ns;
        if (write(way->to, frame->bytes, frame->size) < 0 && errno == EBADF) fail("write");
        free(frame->bytes); /* what could not be written is lost, as on a link that is down */
        way->first = (way->first + 1) % HELD;
        way->count--;
    }
    return -1;
}

int main(int argc, char **argv) {
    if (argc != 7) { errno = EINVAL; fail("arguments"); }
    delay_ns = atoll(argv[3]) * 1000;
    jitter_ns = atoll(argv[4]) * 1000;
    loss_ppm = strtoull(argv[5], NULL, 10);
    int tap = open_tap(argv[2]), interface = open_interface(argv[1]);
    uint64_t seed = strtoull(argv[6], NULL, 10);
    ways[0] = (struct direction){.from = interface, .to = tap, .random = seed};
    ways[1] = (struct direction){.from = tap, .to = interface, .random = ~seed};
    if (daemon(1, 0) < 0) fail("background");
    prctl(PR_SET_TIMERSLACK, 1UL);
    for (;;) {
        int64_t next = INT64_MAX, now = now_ns();
        for (int i = 0; i < 2; i++) {
            int64_t due = send_due(&ways[i], now);
            if (due >= 0 && due < next) next = due;
        }
        int64_t wait = next == INT64_MAX ? 0 : next - now_ns();
        if (wait < 0) wait = 0;
        struct timespec limit = {wait / 1000000000, wait % 1000000000};
        struct pollfd fds[2] = {{ways[0].from, POLLIN, 0}, {ways[1].from, POLLIN, 0}};
        if (ppoll(fds, 2, next == INT64_MAX ? NULL : &limit, NULL) < 0 && errno != EINTR)
            fail("poll");
        for (int i = 0; i < 2; i++)
            if (fds[i].revents) take_in(&ways[i]);
    }
}
