/*
 * The limit of one core: an HTTP and WebSocket server that does nothing but fan out.
 *
 *     sender --port 9000 [--each]
 *
 * GET with Upgrade opens a WebSocket, POST sends its body to every one of them and is answered 204.
 * By default the publications that arrive in one turn of the loop are gathered and each socket is written
 * once per turn (the coalescing limit, "c-batch"); with --each every socket is written once per publication
 * ("c-send"). There is no token, no channel, no storage and no limit here: no product can be this cheap.
 */
#include "wire.h"

#include <getopt.h>
#include <strings.h>

#define IN_ROOM 65536

struct connection {
    int fd;
    int is_socket;                          /* after the handshake */
    size_t place;                           /* in `sockets` */
    char *in;
    size_t in_size;
    char *out;                              /* what the kernel did not take yet */
    size_t out_size, out_room;
};

static struct connection **sockets, **dead;
static size_t socket_count, socket_room, dead_count, dead_room;
static char *turn;                          /* the frames of this turn */
static size_t turn_size, turn_room;
static int epoll_fd, each;

static uint32_t rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

/* SHA-1 of fewer than 120 bytes (FIPS 180-4): enough for a handshake. */
static void sha1(const char *text, size_t size, unsigned char digest[20]) {
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char block[128] = {0};
    size_t total = size < 56 ? 64 : 128;
    memcpy(block, text, size);
    block[size] = 0x80;
    for (int i = 0; i < 8; i++) block[total - 1 - (size_t)i] = (unsigned char)((uint64_t)size * 8 >> 8 * i);
    for (size_t at = 0; at < total; at += 64) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t)block[at + 4 * (size_t)i] << 24 | (uint32_t)block[at + 4 * (size_t)i + 1] << 16 |
                   (uint32_t)block[at + 4 * (size_t)i + 2] << 8 | block[at + 4 * (size_t)i + 3];
        for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 ? b ^ c ^ d : i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
            uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
            uint32_t next = rotate(a, 5) + f + e + k + w[i];
            e = d, d = c, c = rotate(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const unsigned char digest[20], char text[29]) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | (i < 6 ? digest[3 * i + 2] : 0);
        for (int j = 0; j < 4; j++) text[4 * i + j] = letters[three >> (18 - 6 * j) & 63];
    }
    text[27] = '=';
    text[28] = 0;
}

static void append(char **to, size_t *size, size_t *room, const void *bytes, size_t count) {
    if (*size + count > *room) {
        *room = (*size + count) * 2;
        *to = must(realloc(*to, *room));
    }
    memcpy(*to + *size, bytes, count);
    *size += count;
}

static void watch(struct connection *c, int operation) {
    struct epoll_event interest = {.events = EPOLLIN | (c->out_size ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, operation, c->fd, &interest);
}

/* Closed now, freed after the turn: an event of the same turn may still point here. */
static void end_connection(struct connection *c) {
    if (c->fd < 0) return;
    if (c->is_socket) {
        sockets[c->place] = sockets[--socket_count];
        sockets[c->place]->place = c->place;
    }
    close(c->fd);
    c->fd = -1;
    if (dead_count == dead_room) dead = must(realloc(dead, sizeof *dead * (dead_room = dead_room * 2 + 16)));
    dead[dead_count++] = c;
}

static void bury(void) {
    while (dead_count) {
        struct connection *c = dead[--dead_count];
        free(c->in);
        free(c->out);
        free(c);
    }
}

static void write_bytes(struct connection *c, const char *bytes, size_t size) {
    ssize_t sent = 0;
    if (!c->out_size) {
        sent = send(c->fd, bytes, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            shutdown(c->fd, SHUT_RDWR);     /* read as closed in the next turn */
            return;
        }
        if (sent < 0) sent = 0;
        if ((size_t)sent == size) return;
    }
    append(&c->out, &c->out_size, &c->out_room, bytes + sent, size - (size_t)sent);
    watch(c, EPOLL_CTL_MOD);
}

static void flush_rest(struct connection *c) {
    ssize_t sent = send(c->fd, c->out, c->out_size, MSG_NOSIGNAL);
    if (sent <= 0) return;
    c->out_size -= (size_t)sent;
    memmove(c->out, c->out + sent, c->out_size);
    if (!c->out_size) watch(c, EPOLL_CTL_MOD);
}

static void fan_out(void) {
    for (size_t i = 0; i < socket_count; i++) write_bytes(sockets[i], turn, turn_size);
    turn_size = 0;
}

static void publish(const char *body, size_t size) {
    unsigned char head[10] = {0x81, (unsigned char)size};
    size_t head_size = 2;
    if (size > 125) {
        head[1] = 126, head[2] = (unsigned char)(size >> 8), head[3] = (unsigned char)size;
        head_size = 4;
    }
    append(&turn, &turn_size, &turn_room, head, head_size);
    append(&turn, &turn_size, &turn_room, body, size);
    if (each) fan_out();
}

/* The value of a header, lower-case name with its colon; NULL when the head has none. */
static const char *header(const char *head, const char *end, const char *name) {
    for (const char *line = memchr(head, '\n', (size_t)(end - head)); line; line = memchr(line, '\n', (size_t)(end - line)))
        if (!strncasecmp(++line, name, strlen(name))) {
            for (line += strlen(name); *line == ' '; line++) {}
            return line;
        }
    return NULL;
}

static void open_socket(struct connection *c, const char *key) {
    char salted[120], accept[29], answer[256];
    unsigned char digest[20];
    int size = snprintf(salted, sizeof salted, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1(salted, (size_t)size, digest);
    base64(digest, accept);
    size = snprintf(answer, sizeof answer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    write_bytes(c, answer, (size_t)size);
    if (socket_count == socket_room) sockets = must(realloc(sockets, sizeof *sockets * (socket_room = socket_room * 2 + 1024)));
    c->is_socket = 1;
    c->place = socket_count;
    sockets[socket_count++] = c;
    free(c->in);                            /* what a client sends from now on is read and dropped */
    c->in = NULL;
    c->in_size = 0;
}

/* One request at the front; returns its bytes, 0 while it is incomplete. */
static size_t take_request(struct connection *c) {
    const char *end = memmem(c->in, c->in_size, "\r\n\r\n", 4), *value;
    if (!end) return 0;
    size_t head = (size_t)(end - c->in) + 4, length = 0;
    if ((value = header(c->in, end, "sec-websocket-key:"))) {
        open_socket(c, value);
        return 0;
    }
    if ((value = header(c->in, end, "content-length:"))) length = strtoul(value, NULL, 10);
    if (head + length >= IN_ROOM) die("a request of %zu bytes", head + length);
    if (c->in_size < head + length) return 0;
    static const char answer[] = "HTTP/1.1 204 No Content\r\n\r\n";
    if (length) publish(c->in + head, length);
    write_bytes(c, answer, sizeof answer - 1);
    return head + length;
}

static void take(struct connection *c) {
    static char dropped[65536];
    if (!c->is_socket && !c->in) c->in = must(malloc(IN_ROOM));
    ssize_t got = c->is_socket ? recv(c->fd, dropped, sizeof dropped, 0)
                               : recv(c->fd, c->in + c->in_size, IN_ROOM - c->in_size, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        end_connection(c);
        return;
    }
    if (c->is_socket) return;
    c->in_size += (size_t)got;
    for (size_t used; (used = take_request(c));) memmove(c->in, c->in + used, c->in_size -= used);
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"port", 1, 0, 'p'}, {"each", 0, 0, 'e'}, {0, 0, 0, 0}};
    int port = 0, on = 1, chosen;
    while ((chosen = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (chosen == 'p') port = atoi(optarg);
        else if (chosen == 'e') each = 1;
        else return 2;
    }
    if (!port) die("needs --port");

    raise_file_limit();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4096) < 0)
        die("port %d: %s", port, strerror(errno));
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &interest);

    static struct epoll_event events[1024];
    for (;;) {
        int count = epoll_wait(epoll_fd, events, 1024, -1);
        if (count < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    c = must(calloc(1, sizeof *c));
                    c->fd = fd;
                    watch(c, EPOLL_CTL_ADD);
                }
                continue;
            }
            if (c->fd >= 0 && events[i].events & EPOLLOUT && c->out_size) flush_rest(c);
            if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) take(c);
        }
        if (turn_size) fan_out();
        bury();
    }
}
