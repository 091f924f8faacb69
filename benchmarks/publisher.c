/*
 * The publishing side of a benchmark: keep-alive HTTP connections, each of which waits for its answer
 * before it publishes again.
 *
 *     publisher --port 8003 --requests FILE --messages 500 [--publishers 8] [--interval-ms 0]
 *
 * requests: complete HTTP/1.1 requests, each preceded by a line with its length in bytes; request i is number
 *           i modulo their count. Every mark in one (wire.h) is stamped just before the request is written
 *           and carries one message; the marks of one request are numbered one after another.
 * interval: time between the starts of two requests; 0: as soon as a publisher has its answer.
 *
 * It prints {"ready": ...} when it is connected, begins when it reads a line from standard input, and prints
 * one JSON object when every message has been answered. An answer other than 2xx, or none, is a failure.
 */
#include "wire.h"

#include <getopt.h>
#include <poll.h>
#include <strings.h>

#define MOST_PUBLISHERS 256
#define ANSWER_ROOM (1 << 18)

struct request {
    char *bytes;
    size_t size;
    size_t *marks;                          /* offsets */
    int mark_count;
};

struct publisher {
    int fd;
    char *answer;
    size_t answer_size;
    uint64_t sent;                          /* 0: idle */
};

static struct request *requests;
static int request_count, port, messages, next_message, answered, failed, publisher_count = 8;
static struct publisher publishers[MOST_PUBLISHERS];
static struct histogram answers;
static char first_failure[400];
static uint64_t first_sent, last_answer;
static uint32_t next_request;
static int epoll_fd;

static void read_requests(const char *path) {
    size_t size;
    char *content = read_file(path, &size), *at = content;
    while (at < content + size) {
        char *body;
        size_t length = strtoul(at, &body, 10);
        if (*body++ != '\n' || !length || body + length > content + size) die("%s: broken length", path);
        requests = must(realloc(requests, sizeof *requests * (size_t)(request_count + 1)));
        struct request *r = &requests[request_count++];
        *r = (struct request){.bytes = body, .size = length};
        for (char *mark = body; (mark = memmem(mark, (size_t)(body + length - mark), MARK, MARK_PREFIX)); mark++) {
            r->marks = must(realloc(r->marks, sizeof *r->marks * (size_t)(r->mark_count + 1)));
            r->marks[r->mark_count++] = (size_t)(mark - body);
        }
        if (!r->mark_count) die("%s: a request without a mark", path);
        at = body + length;
    }
    if (!request_count) die("%s: no request", path);
}

static void connect_blocking(struct publisher *p) {
    p->fd = start_connecting(port);
    fcntl(p->fd, F_SETFL, 0);
    int error = 0;
    socklen_t size = sizeof error;
    struct pollfd writable = {.fd = p->fd, .events = POLLOUT};
    poll(&writable, 1, -1);
    getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) die("a publisher cannot connect to port %d: %s", port, strerror(error));
}

static void publish(struct publisher *p) {
    struct request *r = &requests[next_request++ % (uint32_t)request_count];
    uint64_t now = now_ns();
    for (int i = 0; i < r->mark_count; i++) {
        put_digits(r->bytes + r->marks[i] + MARK_PREFIX, 8, (uint64_t)next_message++);
        r->bytes[r->marks[i] + MARK_PREFIX + 8] = '-';
        put_digits(r->bytes + r->marks[i] + MARK_PREFIX + 9, 19, now);
    }
    if (!first_sent) first_sent = now;
    p->sent = now;
    for (size_t at = 0; at < r->size;) {
        ssize_t sent = send(p->fd, r->bytes + at, r->size - at, MSG_NOSIGNAL);
        if (sent < 0) die("a publisher lost its connection: %s", strerror(errno));
        at += (size_t)sent;
    }
}

/* The bytes of a complete answer at the front, 0 while it is incomplete. */
static size_t answer_length(const char *data, size_t size) {
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = (size_t)(end - data) + 4, length = 0;
    int chunked = 0;
    for (const char *line = data; line; line = memchr(line, '\n', (size_t)(end - line))) {
        if (*line == '\n') line++;
        if (!strncasecmp(line, "content-length:", 15)) length = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) chunked = 1;
    }
    if (!chunked) return size >= head + length ? head + length : 0;
    for (size_t at = head;;) {
        const char *line_end = memmem(data + at, size - at, "\r\n", 2);
        if (!line_end) return 0;
        size_t chunk = strtoul(data + at, NULL, 16);
        at = (size_t)(line_end - data) + 2 + chunk + 2;
        if (at > size) return 0;
        if (!chunk) return at;
    }
}

static void fail(const char *why, size_t size) {
    failed++;
    if (*first_failure) return;
    if (size > sizeof first_failure - 1) size = sizeof first_failure - 1;
    for (size_t i = 0; i < size; i++)
        first_failure[i] = why[i] < 32 || why[i] > 126 || why[i] == '"' || why[i] == '\\' ? ' ' : why[i];
}

static void take_answer(struct publisher *p) {
    ssize_t got = recv(p->fd, p->answer + p->answer_size, ANSWER_ROOM - 1 - p->answer_size, 0);
    if (got <= 0) {
        static const char why[] = "the server closed the connection of a publisher";
        if (p->sent) {
            fail(why, sizeof why - 1);
            answered++;
        }
        close(p->fd);
        connect_blocking(p);
        struct epoll_event interest = {.events = EPOLLIN, .data.ptr = p};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->fd, &interest);
        p->sent = 0;
        p->answer_size = 0;
        return;
    }
    p->answer_size += (size_t)got;
    p->answer[p->answer_size] = 0;
    size_t length = answer_length(p->answer, p->answer_size);
    if (!length) {
        if (p->answer_size == ANSWER_ROOM - 1) die("an answer of more than %d bytes", ANSWER_ROOM);
        return;
    }
    if (!p->sent) die("an answer that nobody asked for: %.200s", p->answer);
    last_answer = now_ns();
    observe(&answers, last_answer - p->sent);
    if (strncmp(p->answer, "HTTP/1.1 2", 10)) fail(p->answer, length);
    answered++;
    p->sent = 0;
    p->answer_size = 0;
}

int main(int argc, char **argv) {
    enum { PORT = 256, REQUESTS, MESSAGES, PUBLISHERS, INTERVAL };
    static const struct option options[] = {
        {"port", 1, 0, PORT}, {"requests", 1, 0, REQUESTS}, {"messages", 1, 0, MESSAGES},
        {"publishers", 1, 0, PUBLISHERS}, {"interval-ms", 1, 0, INTERVAL}, {0, 0, 0, 0}};
    uint64_t interval_ns = 0;
    int chosen;
    while ((chosen = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (chosen) {
        case PORT: port = atoi(optarg); break;
        case REQUESTS: read_requests(optarg); break;
        case MESSAGES: messages = atoi(optarg); break;
        case PUBLISHERS: publisher_count = atoi(optarg); break;
        case INTERVAL: interval_ns = strtoull(optarg, NULL, 10) * 1000000ull; break;
        default: return 2;
        }
    }
    if (!port || !request_count || messages < 1 || publisher_count < 1 || publisher_count > MOST_PUBLISHERS)
        die("needs --port, --requests and --messages, and 1 to %d publishers", MOST_PUBLISHERS);
    if (messages % requests[0].mark_count) die("%d messages are not a whole number of requests", messages);

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < publisher_count; i++) {
        struct publisher *p = &publishers[i];
        p->answer = must(malloc(ANSWER_ROOM));
        connect_blocking(p);
        struct epoll_event interest = {.events = EPOLLIN, .data.ptr = p};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->fd, &interest);
    }
    printf("{\"ready\":%d}\n", publisher_count);
    fflush(stdout);
    char line[64];
    if (read(STDIN_FILENO, line, sizeof line) <= 0) return 1;   /* whoever started us is gone */

    int total = messages / requests[0].mark_count, begun = 0;
    uint64_t due = now_ns();
    struct epoll_event events[MOST_PUBLISHERS];
    while (answered < total) {
        int busy = begun - answered;
        for (int i = 0; i < publisher_count && begun < total && now_ns() >= due; i++) {
            if (publishers[i].sent) continue;
            publish(&publishers[i]);
            begun++;
            busy++;
            due += interval_ns;
        }
        int64_t left = begun < total && busy < publisher_count ? ((int64_t)due - (int64_t)now_ns()) / 1000000 + 1 : 10000;
        int count = epoll_wait(epoll_fd, events, MOST_PUBLISHERS, left < 0 ? 0 : (int)left);
        if (count < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < count; i++) take_answer(events[i].data.ptr);
    }
    printf("{\"answered\":%d,\"failed\":%d,\"first_failure\":\"%s\",\"first_sent_ns\":%llu,\"last_answer_ns\":%llu,"
           "\"answer_us\":", answered, failed, first_failure, (unsigned long long)first_sent,
           (unsigned long long)last_answer);
    print_histogram(&answers);
    printf("}\n");
    return 0;
}
