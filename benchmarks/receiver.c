/*
 * The receiving side of a benchmark: many WebSocket connections in one thread, far cheaper than any server.
 *
 *     receiver --port 8003 --targets FILE [--first 0] --connections 500 --messages 500 --expect 250000
 *              [--in-flight 100] [--hello TEXT]... [--ready TEXT] [--quiet-ms 3000] [--timeout-s 60]
 *              [--per-message] [--polling]
 *
 * targets: one request target per line, with a TAB before each further header line of that handshake;
 *          connection i takes line (first + i) modulo the number of lines.
 * hello:   a text frame that every connection sends once it is open.
 * ready:   a connection is ready when a frame contains this text (default: when it is open).
 * expect:  deliveries to wait for in all; 0 waits for `end`.
 * polling: never sleep between `ready` and the end, so that no send of the server has to wake this process up.
 *
 * It prints {"ready": ...} when all connections are ready, reads `end` from standard input when nothing
 * more will be published, and prints one JSON object when everything expected has arrived, or when nothing
 * has arrived for `quiet-ms` after `end`. A delivery is a frame with a mark (wire.h), counted once per
 * connection and message; a second one of the same is a duplicate. What the server sends besides
 * (welcome, pings, positions) counts as frames and bytes only. Pings are answered.
 */
#include "wire.h"

#include <getopt.h>

#define ROOM (1 << 20)                      /* one read: more than a socket buffer holds */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="      /* RFC 6455 section 1.3, and the answer that belongs to it */
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum state { UNUSED, CONNECTING, HANDSHAKE, OPENED, READY, CLOSED };

struct connection {
    int fd;
    enum state state;
    char *rest;                             /* an incomplete frame or head, kept until the next read */
    size_t rest_size;
    uint8_t *seen;                          /* one bit per message */
    uint64_t started;
};

static struct connection *connections;
static int wanted, in_flight = 100, port, messages, first_target;
static char **targets, *hellos[8], *ready_text;
static int target_count, hello_count;
static int epoll_fd;

static int started, pending, ready, closed;
static uint64_t expected, deliveries, duplicates, frames, bytes, reads;
static uint64_t first_delivery, last_delivery;
static uint64_t *slowest;                   /* per message: the latency of its last recipient */
static struct histogram latency, handshakes;
static char first_refusal[400];
static int close_codes[16], close_counts[16], close_kinds;

static void note_close(int code) {
    for (int i = 0; i < close_kinds; i++)
        if (close_codes[i] == code) { close_counts[i]++; return; }
    if (close_kinds < 16) {
        close_codes[close_kinds] = code;
        close_counts[close_kinds++] = 1;
    }
}

static void end_connection(struct connection *c, int code) {
    if (c->state == CONNECTING || c->state == HANDSHAKE || c->state == OPENED) pending--;
    if (c->state == READY) ready--;
    note_close(code);
    close(c->fd);
    free(c->rest);
    c->rest = NULL;
    c->rest_size = 0;
    c->state = CLOSED;
    closed++;
}

static void become_ready(struct connection *c) {
    c->state = READY;
    pending--;
    ready++;
}

/* A client frame; the mask is zero, which is a mask like any other and leaves the payload readable. */
static void send_frame(struct connection *c, int opcode, const char *payload, size_t size) {
    unsigned char frame[4096];
    if (size > sizeof frame - 8) die("a client frame of %zu bytes", size);
    size_t head = 2;
    frame[0] = (unsigned char)(0x80 | opcode);
    if (size < 126) {
        frame[1] = (unsigned char)(0x80 | size);
    } else {
        frame[1] = 0x80 | 126;
        frame[2] = (unsigned char)(size >> 8);
        frame[3] = (unsigned char)size;
        head = 4;
    }
    memset(frame + head, 0, 4);
    memcpy(frame + head + 4, payload, size);
    ssize_t sent = send(c->fd, frame, head + 4 + size, MSG_NOSIGNAL);
    if (sent != (ssize_t)(head + 4 + size)) end_connection(c, -2);
}

static void deliver(struct connection *c, const char *mark, uint64_t now) {
    uint64_t message = take_digits(mark + MARK_PREFIX, 8);
    uint64_t sent = take_digits(mark + MARK_PREFIX + 9, 19);
    if (sent == UINT64_MAX || message >= (uint64_t)messages) die("a delivery with a broken mark");
    uint8_t *byte = c->seen + message / 8, bit = (uint8_t)(1 << message % 8);
    if (*byte & bit) {
        duplicates++;
        return;
    }
    *byte |= bit;
    deliveries++;
    uint64_t took = now - sent;
    observe(&latency, took);
    if (took > slowest[message]) slowest[message] = took;
    if (!first_delivery) first_delivery = now;
    last_delivery = now;
}

static void text_frame(struct connection *c, const char *payload, size_t size, uint64_t now) {
    static size_t usual;                    /* where the mark stood last: nearly always where it stands now */
    if (c->state == OPENED && ready_text && memmem(payload, size, ready_text, strlen(ready_text)))
        become_ready(c);
    if (size < MARK_WIDTH) return;
    const char *mark = NULL;
    if (usual + MARK_WIDTH <= size && memcmp(payload + usual, MARK, MARK_PREFIX) == 0)
        mark = payload + usual;
    else if ((mark = memmem(payload, size - (MARK_WIDTH - MARK_PREFIX), MARK, MARK_PREFIX)))
        usual = (size_t)(mark - payload);
    if (mark) deliver(c, mark, now);
}

/* Takes the complete frames from the front; returns the bytes taken. Server frames are never masked. */
static size_t take_frames(struct connection *c, const char *data, size_t size, uint64_t now) {
    size_t at = 0;
    while (c->state != CLOSED && size - at >= 2) {
        const unsigned char *f = (const unsigned char *)data + at;
        uint64_t length = f[1] & 0x7f;
        size_t head = 2;
        if (f[1] & 0x80) die("a masked frame from the server");
        if (f[0] & 0x70) die("a frame with reserved bits from the server");
        if (length == 126) {
            if (size - at < 4) break;
            length = (uint64_t)f[2] << 8 | f[3];
            head = 4;
        } else if (length == 127) {
            if (size - at < 10) break;
            length = 0;
            for (int i = 2; i < 10; i++) length = length << 8 | f[i];
            head = 10;
        }
        if (length > ROOM / 2) die("a frame of %llu bytes", (unsigned long long)length);
        if (size - at < head + length) break;
        const char *payload = data + at + head;
        at += head + length;
        frames++;
        switch (f[0] & 0x0f) {
        case 0: case 1: case 2:
            text_frame(c, payload, length, now);
            break;
        case 8:
            end_connection(c, length >= 2 ? (uint8_t)payload[0] << 8 | (uint8_t)payload[1] : 1005);
            break;
        case 9:
            send_frame(c, 10, payload, length);
            break;
        case 10:
            break;
        default:
            die("a frame with opcode %d", f[0] & 0x0f);
        }
    }
    return at;
}

/* The answer to the handshake; returns the bytes taken, 0 when the head is not complete yet. */
static size_t take_answer(struct connection *c, const char *data, size_t size, uint64_t now) {
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = (size_t)(end - data) + 4;
    if (strncmp(data, "HTTP/1.1 101", 12) || !memmem(data, head, ACCEPT, strlen(ACCEPT))) {
        if (!*first_refusal) {
            size_t shown = size < sizeof first_refusal - 1 ? size : sizeof first_refusal - 1;
            for (size_t i = 0; i < shown; i++)
                first_refusal[i] = data[i] < 32 || data[i] > 126 || data[i] == '"' || data[i] == '\\' ? ' ' : data[i];
        }
        end_connection(c, -1);
        return head;
    }
    observe(&handshakes, now - c->started);
    c->state = OPENED;
    for (int i = 0; i < hello_count && c->state == OPENED; i++) send_frame(c, 1, hellos[i], strlen(hellos[i]));
    if (c->state == OPENED && !ready_text) become_ready(c);
    return head;
}

static void take(struct connection *c) {
    static char buffer[ROOM + ROOM];
    if (c->rest_size) memcpy(buffer, c->rest, c->rest_size);
    ssize_t got = recv(c->fd, buffer + c->rest_size, ROOM, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        end_connection(c, 1006);
        return;
    }
    uint64_t now = now_ns();
    reads++;
    bytes += (uint64_t)got;
    size_t size = c->rest_size + (size_t)got, at = 0;
    if (c->state == HANDSHAKE) at = take_answer(c, buffer, size, now);
    if (c->state == OPENED || c->state == READY) at += take_frames(c, buffer + at, size - at, now);
    if (c->state == CLOSED) return;
    size_t left = size - at;
    if (left) {
        c->rest = must(realloc(c->rest, left));
        memcpy(c->rest, buffer + at, left);
    } else if (c->rest) {
        free(c->rest);
        c->rest = NULL;
    }
    c->rest_size = left;
}

static void open_next(void) {
    struct connection *c = &connections[started];
    c->started = now_ns();
    c->fd = start_connecting(port);
    c->state = CONNECTING;
    struct epoll_event interest = {.events = EPOLLOUT, .data.u32 = (uint32_t)started};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &interest) < 0) die("epoll_ctl: %s", strerror(errno));
    started++;
    pending++;
}

/* The TCP connection stands: ask for the WebSocket. */
static void shake_hands(struct connection *c, int index) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        end_connection(c, -3);
        return;
    }
    char request[8192], target[6144];
    snprintf(target, sizeof target, "%s", targets[(first_target + index) % target_count]);
    char *further = strchr(target, '\t');
    if (further) *further++ = 0;
    int used = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n", target, port);
    for (char *line = further ? strtok(further, "\t") : NULL; line; line = strtok(NULL, "\t"))
        used += snprintf(request + used, sizeof request - (size_t)used, "%s\r\n", line);
    used += snprintf(request + used, sizeof request - (size_t)used, "\r\n");
    if (used >= (int)sizeof request) die("a handshake of more than %zu bytes", sizeof request);
    if (send(c->fd, request, (size_t)used, MSG_NOSIGNAL) != used) {
        end_connection(c, -3);
        return;
    }
    c->state = HANDSHAKE;
    struct epoll_event interest = {.events = EPOLLIN, .data.u32 = (uint32_t)index};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &interest);
}

static void read_targets(const char *path) {
    size_t size;
    char *content = read_file(path, &size);
    for (char *line = strtok(content, "\n"); line; line = strtok(NULL, "\n")) {
        targets = must(realloc(targets, sizeof *targets * (size_t)(target_count + 1)));
        targets[target_count++] = line;
    }
    if (!target_count) die("%s: no request target", path);
}

static void print_result(int per_message) {
    printf("{\"deliveries\":%llu,\"duplicates\":%llu,\"frames\":%llu,\"bytes\":%llu,\"reads\":%llu,"
           "\"ready\":%d,\"closed\":%d,\"first_delivery_ns\":%llu,\"last_delivery_ns\":%llu,\"latency_us\":",
           (unsigned long long)deliveries, (unsigned long long)duplicates, (unsigned long long)frames,
           (unsigned long long)bytes, (unsigned long long)reads, ready, closed,
           (unsigned long long)first_delivery, (unsigned long long)last_delivery);
    print_histogram(&latency);
    printf(",\"close_codes\":{");
    for (int i = 0; i < close_kinds; i++) printf("%s\"%d\":%d", i ? "," : "", close_codes[i], close_counts[i]);
    printf("}");
    if (per_message) {
        printf(",\"slowest_ns\":[");
        for (int i = 0; i < messages; i++) printf("%s%llu", i ? "," : "", (unsigned long long)slowest[i]);
        printf("]");
    }
    printf("}\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    enum { PORT = 256, TARGETS, FIRST, CONNECTIONS, MESSAGES, EXPECT, IN_FLIGHT, HELLO, READY_TEXT, QUIET, TIMEOUT,
           PER_MESSAGE, POLLING };
    static const struct option options[] = {
        {"port", 1, 0, PORT}, {"targets", 1, 0, TARGETS}, {"first", 1, 0, FIRST},
        {"connections", 1, 0, CONNECTIONS}, {"messages", 1, 0, MESSAGES}, {"expect", 1, 0, EXPECT},
        {"in-flight", 1, 0, IN_FLIGHT}, {"hello", 1, 0, HELLO}, {"ready", 1, 0, READY_TEXT},
        {"quiet-ms", 1, 0, QUIET}, {"timeout-s", 1, 0, TIMEOUT}, {"per-message", 0, 0, PER_MESSAGE}, {"polling", 0, 0, POLLING}, {0, 0, 0, 0}};
    uint64_t quiet_ns = 3000000000ull, timeout_ns = 60000000000ull;
    int per_message = 0, polling = 0, chosen;
    while ((chosen = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (chosen) {
        case PORT: port = atoi(optarg); break;
        case TARGETS: read_targets(optarg); break;
        case FIRST: first_target = atoi(optarg); break;
        case CONNECTIONS: wanted = atoi(optarg); break;
        case MESSAGES: messages = atoi(optarg); break;
        case EXPECT: expected = strtoull(optarg, NULL, 10); break;
        case IN_FLIGHT: in_flight = atoi(optarg); break;
        case HELLO:
            if (hello_count == 8) die("more than 8 hello frames");
            hellos[hello_count++] = optarg;
            break;
        case READY_TEXT: ready_text = optarg; break;
        case QUIET: quiet_ns = strtoull(optarg, NULL, 10) * 1000000ull; break;
        case TIMEOUT: timeout_ns = strtoull(optarg, NULL, 10) * 1000000000ull; break;
        case PER_MESSAGE: per_message = 1; break;
        case POLLING: polling = 1; break;
        default: return 2;
        }
    }
    if (!port || !target_count || wanted < 1 || messages < 0) die("needs --port, --targets and --connections");

    raise_file_limit();
    connections = must(calloc((size_t)wanted, sizeof *connections));
    slowest = must(calloc((size_t)messages + 1, sizeof *slowest));
    uint8_t *bits = must(calloc((size_t)wanted, (size_t)messages / 8 + 1));
    for (int i = 0; i < wanted; i++) connections[i].seen = bits + (size_t)i * ((size_t)messages / 8 + 1);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    const uint32_t standard_input = UINT32_MAX;
    struct epoll_event interest = {.events = EPOLLIN, .data.u32 = standard_input};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &interest);

    static struct epoll_event events[1024];
    uint64_t begun = now_ns();
    uint64_t ended = 0;                     /* when `end` was read */
    int announced = 0;
    for (;;) {
        while (started < wanted && pending < in_flight) open_next();
        int count = epoll_wait(epoll_fd, events, 1024, polling && announced ? 0 : 100);
        if (count < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            uint32_t index = events[i].data.u32;
            if (index == standard_input) {
                char line[64];
                if (read(STDIN_FILENO, line, sizeof line) <= 0) return 1;   /* whoever started us is gone */
                ended = now_ns();
                continue;
            }
            struct connection *c = &connections[index];
            if (c->state == CONNECTING) shake_hands(c, (int)index);
            else if (c->state != CLOSED) take(c);
        }
        if (!announced) {
            if (closed || now_ns() - begun > timeout_ns)
                die("only %d of %d connections became ready (%d refused or closed; first close code %d). %s",
                    ready, wanted, closed, close_kinds ? close_codes[0] : 0, first_refusal);
            if (ready == wanted) {
                printf("{\"ready\":%d,\"seconds\":%.6f,\"handshake_us\":", ready, (double)(now_ns() - begun) / 1e9);
                print_histogram(&handshakes);
                printf("}\n");
                fflush(stdout);
                announced = 1;
                frames = bytes = reads = 0;
            }
        }
        int complete = expected && deliveries >= expected;
        uint64_t silent_since = ended > last_delivery ? ended : last_delivery;
        if (complete || (ended && (!expected || now_ns() - silent_since > quiet_ns))) {
            print_result(per_message);
            return 0;
        }
    }
}
