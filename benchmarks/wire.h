/*
 * What the receiver and the publisher share: the clock, the mark inside a payload, a histogram of
 * latencies, and the small things around sockets.
 *
 * The mark travels inside the payload of every measured message and has a fixed width, so that a
 * request can be stamped in place without changing its Content-Length:
 *
 *     bench=00000123-0000004711000000000
 *           message  monotonic nanoseconds of this machine just before the request is written
 */
#ifndef CARILLON_BENCH_WIRE_H
#define CARILLON_BENCH_WIRE_H

#define _GNU_SOURCE                         /* memmem */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MARK "bench="
#define MARK_PREFIX 6                       /* bytes of MARK */
#define MARK_WIDTH (MARK_PREFIX + 8 + 1 + 19)

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* Ends the program with a reason. Whoever started it reads the reason from standard error. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static inline void *must(void *allocated) {
    if (!allocated) die("out of memory");
    return allocated;
}

static inline void put_digits(char *at, int width, uint64_t value) {
    while (width--) {
        at[width] = (char)('0' + value % 10);
        value /= 10;
    }
}

/* Reads exactly `width` digits; UINT64_MAX when one of them is none. */
static inline uint64_t take_digits(const char *at, int width) {
    uint64_t value = 0;
    for (int i = 0; i < width; i++) {
        if (at[i] < '0' || at[i] > '9') return UINT64_MAX;
        value = value * 10 + (uint64_t)(at[i] - '0');
    }
    return value;
}

/* Every descriptor the hard limit allows: ten thousand sockets need more than the usual 1,024. */
static inline void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* A non-blocking TCP socket that is connecting to 127.0.0.1:port, without Nagle's delay. */
static inline int start_connecting(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket: %s", strerror(errno));
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        die("connect to port %d: %s", port, strerror(errno));
    return fd;
}

/* The whole file, with a terminating zero; *size is without it. */
static inline char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) die("%s: %s", path, strerror(errno));
    size_t room = 1 << 16, used = 0, got;
    char *content = must(malloc(room));
    while ((got = fread(content + used, 1, room - used - 1, file)) > 0) {
        used += got;
        if (used + 1 == room) content = must(realloc(content, room *= 2));
    }
    fclose(file);
    content[used] = 0;
    *size = used;
    return content;
}

/*
 * Latencies in nanoseconds. Each power of two is cut into 32 steps, so that a bucket is at most
 * 1/32 (3 %) wide, from 1 us to 18 minutes.
 */
#define STEPS 32
#define BUCKETS (31 * STEPS)

struct histogram {
    uint64_t count[BUCKETS];
};

static inline void observe(struct histogram *h, uint64_t ns) {
    uint64_t us = ns / 1000 + STEPS;
    int power = 63 - __builtin_clzll(us);
    int bucket = (power - 5) * STEPS + (int)((us >> (power - 5)) - STEPS);
    h->count[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

/* JSON: [[upper bound in us, count], ...] of the buckets that hold something. */
static inline void print_histogram(const struct histogram *h) {
    putchar('[');
    const char *comma = "";
    for (int i = 0; i < BUCKETS; i++) {
        if (!h->count[i]) continue;
        uint64_t upper = ((uint64_t)(i % STEPS + STEPS + 1) << (i / STEPS)) - STEPS;
        printf("%s[%llu,%llu]", comma, (unsigned long long)upper, (unsigned long long)h->count[i]);
        comma = ",";
    }
    putchar(']');
}

#endif
