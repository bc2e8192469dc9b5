/* The clients of a benchmark: up to 20,000 sockets in one process, as little work per event as can be.
 *
 *   load HOST PORT READY MARKER [--frames]
 *
 * Speaks no protocol: it sends the bytes that it is given and scans what comes back. A connection is
 * ready once READY occurs in its stream. An event is MARKER followed by digits, the CLOCK_REALTIME
 * nanoseconds at which it was published, and perhaps "." and the event's number in its channel: numbers
 * must then rise by one, else they count as "gaps" or "repeats". With --frames the stream after the
 * upgrade is WebSocket frames: pings are answered, and Engine.IO's "2" with "3".
 *
 * Commands, one a line, on standard input; answers, one JSON object a line, on standard output:
 *   file PATH             read openings: per connection two strings, each a 32-bit little-endian length
 *                         and its bytes: what is sent first, and what is sent after the first answer
 *   open COUNT RATE MS    open the next COUNT of them, RATE a second (0: as fast as they are accepted);
 *                         answers when all are ready or MS have passed, with the times to become ready
 *   begin COUNT RATE      the same without waiting: the next "report" tells how many are ready
 *   close FIRST COUNT     close those connections, by their place in the order of opening
 *   mark                  forget counts, times, and what was read
 *   await COUNT MS        answers as "report" once COUNT events came since the mark, or MS have passed
 *   report                what came since the mark
 *   quit
 * An event is there when the kernel has it for the client (SO_TIMESTAMPNS), not when this process comes to
 * read it: clients have machines of their own, these share theirs with what is measured. For the same reason
 * this process waits until a core is free, and does not push aside what has just sent it something. Of several
 * events in one read it is when the last of them came. Latencies are counted in logarithmic buckets less than 1.6 %
 * wide.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MOST = 20000,
    CARRY = 96,            /* longest marker, timestamp and number that a read may cut in two */
    SUB = 64,              /* buckets per power of two */
    BUCKETS = 64 * SUB,
    READ_BYTES = 1 << 18,
    IN_FLIGHT = 256,       /* handshakes at once when RATE is 0 */
    MOST_FILES = 8,
};

typedef struct { char *first, *second; uint32_t first_length, second_length; } opening;
typedef enum { IDLE, CONNECTING, ASKED, READY, GONE } state;

typedef struct {
    int fd;
    state is;
    int answered, upgraded;
    int64_t began;
    uint64_t number, received;
    uint32_t held;
    char carry[CARRY];     /* an event that may go on in the next read */
    uint32_t tail_held;
    char tail[CARRY];      /* until ready: the end of what was read, READY may begin in it */
    /* WebSocket frames */
    uint64_t skip;
    unsigned char head[14];
    uint32_t head_held, control_held;
    int control;           /* opcode of a frame whose payload is kept, else 0 */
    char payload[126];
} connection;

static connection all[MOST];
static opening openings[2 * MOST];
static int opening_count, opened, target, ready_count, gone_count, in_flight, frames, epoll_fd;
static double rate;
static int open_first;
static int64_t open_began, mark_at, last_at;
static const char *ready_text, *marker;
static size_t ready_length, marker_length;
static struct sockaddr_in address;
static uint64_t received, gaps, repeats, bytes_read, reads, refused;
static uint64_t latency[BUCKETS], connect_time[BUCKETS];
static char refusal[256];
static char awaiting[16];
static uint64_t await_count;
static int64_t await_until;

static int64_t now(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int bucket(int64_t ns) {
    if (ns < SUB) return ns < 0 ? 0 : (int)ns;
    int power = 63 - __builtin_clzll((uint64_t)ns);
    return (power - 5) * SUB + (int)((uint64_t)ns >> (power - 6)) - SUB;
}

static double lowest(int index) {
    if (index < SUB) return index;
    int power = index / SUB + 5;
    return (double)((uint64_t)(SUB + index % SUB) << (power - 6));
}

static void histogram(const char *name, const uint64_t *counts) {
    printf("\"%s\":[", name);
    int first = 1;
    for (int i = 0; i < BUCKETS; i++)
        if (counts[i]) printf("%s[%.0f,%llu]", first ? "" : ",", (lowest(i) + lowest(i + 1)) / 2,
                              (unsigned long long)counts[i]), first = 0;
    printf("]");
}

static void report(void) {
    uint64_t least = UINT64_MAX, most = 0;
    for (int i = 0; i < opened; i++) {
        if (all[i].is == GONE) continue;
        if (all[i].received < least) least = all[i].received;
        if (all[i].received > most) most = all[i].received;
    }
    printf("{\"received\":%llu,\"gaps\":%llu,\"repeats\":%llu,\"bytes\":%llu,\"reads\":%llu,"
           "\"ready\":%d,\"gone\":%d,\"refused\":%llu,\"refusal\":\"",
           (unsigned long long)received, (unsigned long long)gaps, (unsigned long long)repeats,
           (unsigned long long)bytes_read, (unsigned long long)reads, ready_count, gone_count,
           (unsigned long long)refused);
    for (const char *c = refusal; *c; c++) putchar(*c < 32 || *c == '"' || *c == '\\' ? ' ' : *c);
    printf("\",\"least\":%llu,\"most\":%llu,\"seconds\":%.6f,\"last\":%.6f,\"cpu\":%.6f,",
           (unsigned long long)(least == UINT64_MAX ? 0 : least), (unsigned long long)most,
           (now(CLOCK_MONOTONIC) - mark_at) / 1e9, last_at ? (last_at - mark_at) / 1e9 : 0.0,
           now(CLOCK_PROCESS_CPUTIME_ID) / 1e9);
    histogram("latency_ns", latency);
    putchar(',');
    histogram("connect_ns", connect_time);
    printf("}\n");
    fflush(stdout);
}

static void lose(connection *lost, const char *why, size_t length) {
    if (lost->is != READY) {
        refused++;
        if (!refusal[0]) snprintf(refusal, sizeof refusal, "%.*s", (int)(length > 250 ? 250 : length), why);
        in_flight--;
    } else ready_count--;
    close(lost->fd);
    lost->is = GONE;
    gone_count++;
}

static void count(connection *at, const char *digits, const char *stop, int64_t clock) {
    int64_t when = 0;
    for (; digits < stop && *digits >= '0' && *digits <= '9'; digits++) when = when * 10 + *digits - '0';
    if (digits < stop && *digits == '.') {
        uint64_t number = strtoull(digits + 1, NULL, 10);
        if (number <= at->number) repeats++;
        else if (number != at->number + 1 && at->number) gaps++;
        if (number > at->number) at->number = number;
    }
    received++, at->received++;
    latency[bucket(clock - when)]++;
}

/* Finds the events of one read; what may be the beginning of one that the next read completes is kept. */
static void scan(connection *at, const char *bytes, size_t length, int64_t clock) {
    static char joined[READ_BYTES + CARRY];
    if (at->held) {
        memcpy(joined, at->carry, at->held);
        memcpy(joined + at->held, bytes, length);
        bytes = joined, length += at->held;
    }
    const char *stop = bytes + length, *from = bytes, *found;
    while ((found = memmem(from, (size_t)(stop - from), marker, marker_length))) {
        const char *end = found + marker_length;
        while (end < stop && ((*end >= '0' && *end <= '9') || *end == '.')) end++;
        if (end == stop) { from = found; break; }
        count(at, found + marker_length, end, clock);
        from = end;
    }
    size_t keep = (size_t)(stop - from);
    if (!found && keep > marker_length - 1) keep = marker_length - 1;
    if (keep > CARRY) keep = CARRY;
    memcpy(at->carry, stop - keep, keep);
    at->held = (uint32_t)keep;
}

static void answer_control(connection *at) {
    unsigned char frame[6 + 126] = {0};
    uint32_t length = at->control_held;
    if (at->control == 9) frame[0] = 0x8a;
    else if (at->control == 1 && length == 1 && at->payload[0] == '2') frame[0] = 0x81, at->payload[0] = '3';
    else return;
    frame[1] = (unsigned char)(0x80 | length); /* a mask of zeros leaves the payload as it is */
    memcpy(frame + 6, at->payload, length);
    if (write(at->fd, frame, 6 + length) < 0) return;
}

static void walk_frames(connection *at, const char *bytes, size_t length) {
    while (length) {
        if (at->skip) {
            size_t part = length < at->skip ? length : (size_t)at->skip;
            if (at->control) memcpy(at->payload + at->control_held, bytes, part), at->control_held += (uint32_t)part;
            at->skip -= part, bytes += part, length -= part;
            if (!at->skip && at->control) answer_control(at), at->control = 0;
            continue;
        }
        at->head[at->head_held++] = (unsigned char)*bytes++;
        length--;
        if (at->head_held < 2) continue;
        unsigned small = at->head[1] & 127, needed = small == 126 ? 4 : small == 127 ? 10 : 2;
        if (at->head_held < needed) continue;
        uint64_t size = small;
        if (needed > 2) { size = 0; for (unsigned i = 2; i < needed; i++) size = size << 8 | at->head[i]; }
        int opcode = at->head[0] & 15;
        at->control = (opcode == 9 && size < 126) || (opcode == 1 && size == 1) ? opcode : 0;
        at->control_held = 0, at->head_held = 0, at->skip = size;
        if (!size && at->control) answer_control(at), at->control = 0;
    }
}

static void become_ready(connection *at, int64_t clock) {
    at->is = READY;
    ready_count++, in_flight--;
    connect_time[bucket(clock - at->began)]++;
}

static void find_ready(connection *at, const char *bytes, size_t length) {
    static char joined[READ_BYTES + CARRY];
    memcpy(joined, at->tail, at->tail_held);
    memcpy(joined + at->tail_held, bytes, length);
    length += at->tail_held;
    if (memmem(joined, length, ready_text, ready_length)) { become_ready(at, last_at); return; }
    at->tail_held = (uint32_t)(length < ready_length ? length : ready_length - 1);
    memcpy(at->tail, joined + length - at->tail_held, at->tail_held);
}

/* Reads; ``clock`` is when what was read last had come, by the same clock as the events' own times. */
static ssize_t take(int fd, char *buffer, size_t size, int64_t *clock) {
    union { char bytes[CMSG_SPACE(sizeof(struct timespec))]; struct cmsghdr aligned; } told;
    struct iovec into = {.iov_base = buffer, .iov_len = size};
    struct msghdr message = {.msg_iov = &into, .msg_iovlen = 1, .msg_control = told.bytes, .msg_controllen = sizeof told};
    ssize_t got = recvmsg(fd, &message, 0);
    struct cmsghdr *first = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (first && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SCM_TIMESTAMPNS) {
        struct timespec came;
        memcpy(&came, CMSG_DATA(first), sizeof came);
        *clock = came.tv_sec * 1000000000LL + came.tv_nsec;
    } else *clock = now(CLOCK_REALTIME); /* of a segment that was under way when the socket was asked to tell */
    return got;
}

static void hear(connection *at, int index) {
    static char buffer[READ_BYTES];
    int64_t clock;
    ssize_t got = take(at->fd, buffer, sizeof buffer, &clock);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { lose(at, "closed", 6); return; }
    bytes_read += (uint64_t)got, reads++;
    last_at = now(CLOCK_MONOTONIC);
    const char *from = buffer;
    size_t length = (size_t)got;
    if (!at->answered) {
        at->answered = 1;
        if (!memcmp(buffer, "HTTP/1.1 ", length < 9 ? length : 9) && memcmp(buffer, "HTTP/1.1 101", length < 12 ? length : 12)) {
            lose(at, buffer, length);
            return;
        }
        const opening *mine = &openings[index];
        if (mine->second_length && write(at->fd, mine->second, mine->second_length) < 0) return;
    }
    if (at->is == ASKED) find_ready(at, from, length);
    if (frames && !at->upgraded) {
        char *end = memmem(buffer, length, "\r\n\r\n", 4);
        if (end) at->upgraded = 1, walk_frames(at, end + 4, length - (size_t)(end + 4 - buffer));
    } else if (frames) walk_frames(at, from, length);
    scan(at, from, length, clock);
}

static void start(int index) {
    connection *at = &all[index];
    memset(at, 0, sizeof *at);
    at->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    at->began = now(CLOCK_MONOTONIC);
    int one = 1;
    setsockopt(at->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(at->fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
    at->is = CONNECTING;
    in_flight++;
    if (at->fd < 0 || (connect(at->fd, (void *)&address, sizeof address) && errno != EINPROGRESS)) {
        const char *why = strerror(errno);
        lose(at, why, strlen(why));
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.u32 = (uint32_t)index};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, at->fd, &event);
}

static void ask(connection *at, int index) {
    const opening *mine = &openings[index];
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)index};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, at->fd, &event);
    at->is = ASKED;
    if (write(at->fd, mine->first, mine->first_length) != (ssize_t)mine->first_length) lose(at, "not connected", 13);
}

static int open_due(void) { /* milliseconds until the next one is due, -1 for none */
    while (opened < target) {
        if (rate > 0) {
            double due = (double)open_began / 1e9 + (opened - open_first) / rate;
            double left = due - now(CLOCK_MONOTONIC) / 1e9;
            if (left > 0) return (int)(left * 1000) + 1;
        } else if (in_flight >= IN_FLIGHT) return -1;
        start(opened++);
    }
    return -1;
}

static void read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) { perror(path); exit(1); }
    uint32_t length;
    while (fread(&length, 4, 1, file) == 1 && opening_count < 2 * MOST) {
        opening *made = &openings[opening_count++];
        made->first_length = length, made->first = malloc(length + 1);
        if (fread(made->first, 1, length, file) != length || fread(&made->second_length, 4, 1, file) != 1) exit(1);
        made->second = malloc(made->second_length + 1);
        if (fread(made->second, 1, made->second_length, file) != made->second_length) exit(1);
    }
    fclose(file);
    printf("{\"openings\":%d}\n", opening_count);
    fflush(stdout);
}

static void begin(int many, double each_second) {
    target = opened + many;
    if (target > opening_count || target > MOST) { fprintf(stderr, "only %d openings\n", opening_count); exit(1); }
    rate = each_second, open_began = now(CLOCK_MONOTONIC), open_first = opened;
}

static void obey(char *line) {
    char path[4096];
    int a, b;
    long ms;
    double r;
    unsigned long long many;
    if (sscanf(line, "file %4095s", path) == 1) read_file(path);
    else if (sscanf(line, "open %d %lf %ld", &a, &r, &ms) == 3) {
        begin(a, r);
        await_until = open_began + ms * 1000000LL;
        strcpy(awaiting, "open");
    } else if (sscanf(line, "begin %d %lf", &a, &r) == 2) begin(a, r);
    else if (sscanf(line, "close %d %d", &a, &b) == 2) {
        for (int i = a; i < a + b && i < opened; i++)
            if (all[i].is != GONE) {
                if (all[i].is == READY) ready_count--;
                else in_flight--;
                close(all[i].fd), all[i].is = GONE;
            }
        printf("{\"ready\":%d}\n", ready_count);
        fflush(stdout);
    } else if (!strncmp(line, "mark", 4)) {
        received = gaps = repeats = bytes_read = reads = refused = 0;
        gone_count = 0, refusal[0] = 0, last_at = 0, mark_at = now(CLOCK_MONOTONIC);
        memset(latency, 0, sizeof latency), memset(connect_time, 0, sizeof connect_time);
        for (int i = 0; i < opened; i++) all[i].received = 0;
    } else if (sscanf(line, "await %llu %ld", &many, &ms) == 2) {
        await_count = many, await_until = now(CLOCK_MONOTONIC) + ms * 1000000LL;
        strcpy(awaiting, "events");
    } else if (!strncmp(line, "report", 6)) report();
    else exit(0);
}

static void obey_all(void) {
    static char input[65536];
    static size_t held;
    ssize_t got = read(0, input + held, sizeof input - 1 - held);
    if (got <= 0) exit(0);
    held += (size_t)got;
    char *end;
    while ((end = memchr(input, '\n', held))) {
        *end = 0;
        obey(input);
        held -= (size_t)(end + 1 - input);
        memmove(input, end + 1, held);
    }
}

int main(int words, char **word) {
    if (words < 5) { fprintf(stderr, "usage: load HOST PORT READY MARKER [--frames]\n"); return 2; }
    address.sin_family = AF_INET;
    inet_pton(AF_INET, word[1], &address.sin_addr);
    address.sin_port = htons((unsigned short)atoi(word[2]));
    ready_text = word[3], ready_length = strlen(word[3]);
    marker = word[4], marker_length = strlen(word[4]);
    frames = words > 5;
    if (ready_length > CARRY || marker_length > CARRY / 2) return 2;
    sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
    epoll_fd = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = UINT32_MAX}, events[512];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event);
    mark_at = now(CLOCK_MONOTONIC);
    for (;;) {
        int wait = open_due();
        if (awaiting[0] && (wait < 0 || wait > 20)) wait = 20;
        int many = epoll_wait(epoll_fd, events, 512, wait);
        for (int i = 0; i < many; i++) {
            uint32_t index = events[i].data.u32;
            if (index == UINT32_MAX) { obey_all(); continue; }
            connection *at = &all[index];
            if (at->is == GONE || at->is == IDLE) continue;
            if (at->is == CONNECTING) ask(at, (int)index);
            else hear(at, (int)index);
        }
        if (!awaiting[0]) continue;
        int late = now(CLOCK_MONOTONIC) > await_until;
        int done = !strcmp(awaiting, "open") ? opened == target && in_flight == 0 : received >= await_count;
        if (done || late) awaiting[0] = 0, report();
    }
}
