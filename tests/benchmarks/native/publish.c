/* Sends prepared Redis commands at an even pace, over one connection, and counts the replies.
 *
 *   publish PORT FILE MARKER RATE BURST WINDOW [FIRST COUNT]
 *
 * FILE holds commands in Redis' own form, each behind its 32-bit little-endian length. Wherever MARKER and
 * 19 digits occur in one, the digits are replaced by CLOCK_REALTIME's nanoseconds at its sending. RATE
 * commands a second leave in bursts of BURST; RATE 0 sends whenever fewer than WINDOW are unanswered.
 * WINDOW 0: the server answers nothing that has to be counted (NATS' PUB), so RATE must be given.
 * FIRST and COUNT choose a part of the file. Standard output, at the end: one JSON object. Error
 * replies are counted and the first is quoted; any makes the exit status 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { DIGITS = 19, OUT_BYTES = 1 << 20, IN_BYTES = 1 << 18 };

static char out[OUT_BYTES], in[IN_BYTES], error[256];
static size_t out_held, in_held;
static uint64_t replies, errors;
static int fd, silent;

static int64_t now(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* Bytes of the reply at ``at``, 0 when it is not all there. */
static size_t reply(const char *at, const char *stop, int outermost) {
    const char *end = memchr(at, '\n', (size_t)(stop - at));
    if (!end) return 0;
    size_t used = (size_t)(end + 1 - at);
    long size = atol(at + 1);
    if (*at == '-' && outermost) {
        errors++;
        if (!error[0]) snprintf(error, sizeof error, "%.*s", (int)(used > 200 ? 200 : used - 2), at);
    }
    if (*at == '$' && size >= 0) return at + used + size + 2 > stop ? 0 : used + (size_t)size + 2;
    if (*at == '*')
        for (long i = 0; i < size; i++) {
            size_t part = at + used < stop ? reply(at + used, stop, 0) : 0;
            if (!part) return 0;
            used += part;
        }
    return used;
}

static void hear(void) {
    ssize_t got = read(fd, in + in_held, sizeof in - in_held);
    if (got == 0 || (got < 0 && errno != EAGAIN)) { fprintf(stderr, "Redis is gone\n"); exit(1); }
    if (got < 0 || silent) return;
    in_held += (size_t)got;
    size_t used = 0, one;
    while (used < in_held && (one = reply(in + used, in + in_held, 1))) used += one, replies++;
    memmove(in, in + used, in_held - used);
    in_held -= used;
}

static void flush(void) {
    size_t sent = 0;
    while (sent < out_held) {
        ssize_t some = write(fd, out + sent, out_held - sent);
        if (some > 0) { sent += (size_t)some; continue; }
        if (errno != EAGAIN) { perror("write"); exit(1); }
        struct pollfd both = {.fd = fd, .events = POLLIN | POLLOUT};
        poll(&both, 1, 1000);
        if (both.revents & POLLIN) hear();
    }
    out_held = 0;
}

int main(int words, char **word) {
    if (words < 7) { fprintf(stderr, "usage: publish PORT FILE MARKER RATE BURST WINDOW [FIRST COUNT]\n"); return 2; }
    const char *marker = word[3];
    size_t marker_length = strlen(marker);
    double rate = atof(word[4]);
    uint64_t burst = strtoull(word[5], NULL, 10), window = strtoull(word[6], NULL, 10);
    silent = window == 0;
    uint64_t first = words > 8 ? strtoull(word[7], NULL, 10) : 0;
    uint64_t most = words > 8 ? strtoull(word[8], NULL, 10) : UINT64_MAX, sent = 0;
    int file = open(word[2], O_RDONLY);
    struct stat about;
    if (file < 0 || fstat(file, &about)) { perror(word[2]); return 1; }
    const char *at = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    const char *stop = at + about.st_size;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((unsigned short)atoi(word[1]))};
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&address, sizeof address)) { perror("connect"); return 1; }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    uint32_t length;
    for (uint64_t i = 0; i < first && at < stop; i++) memcpy(&length, at, 4), at += 4 + length;
    int64_t began = now(CLOCK_MONOTONIC), latest = 0;
    while (at < stop && sent < most) {
        int64_t clock = now(CLOCK_MONOTONIC), due = began + (int64_t)(rate > 0 ? sent / rate * 1e9 : 0);
        if (rate > 0 ? clock < due : sent - replies >= window) {
            struct pollfd both = {.fd = fd, .events = POLLIN};
            struct timespec left = {.tv_nsec = 100000000};
            if (rate > 0 && due - clock < left.tv_nsec) left.tv_nsec = due - clock;
            if (ppoll(&both, 1, &left, NULL) > 0) hear();
            continue;
        }
        if (rate > 0 && clock - due > latest) latest = clock - due;
        uint64_t some = rate > 0 ? burst : window - (sent - replies);
        for (; some && at < stop && sent < most; some--, sent++) {
            memcpy(&length, at, 4);
            if (out_held + length > sizeof out) flush();
            char *copy = out + out_held;
            memcpy(copy, at + 4, length);
            char *found = copy, *end = copy + length, digits[32];
            while ((found = memmem(found, (size_t)(end - found), marker, marker_length))) {
                found += marker_length;
                if (found + DIGITS > end) break;
                snprintf(digits, sizeof digits, "%019lld", (long long)now(CLOCK_REALTIME));
                memcpy(found, digits, DIGITS);
            }
            out_held += length, at += 4 + length;
        }
        flush();
        if (silent) replies = sent;
    }
    int64_t all_sent = now(CLOCK_MONOTONIC);
    /* Closing with unread bytes would reset the connection, and the server would lose what it has not
     * read yet: it closes first. */
    if (silent) for (shutdown(fd, SHUT_WR), fcntl(fd, F_SETFL, 0); read(fd, in, sizeof in) > 0;) continue;
    while (replies < sent && now(CLOCK_MONOTONIC) - all_sent < 30000000000LL) {
        struct pollfd both = {.fd = fd, .events = POLLIN};
        if (poll(&both, 1, 100) > 0) hear();
    }
    printf("{\"sent\":%llu,\"replies\":%llu,\"errors\":%llu,\"error\":\"%s\",\"seconds\":%.6f,\"latest\":%.6f,\"cpu\":%.6f}\n",
           (unsigned long long)sent, (unsigned long long)replies, (unsigned long long)errors, error,
           (now(CLOCK_MONOTONIC) - began) / 1e9, latest / 1e9, now(CLOCK_PROCESS_CPUTIME_ID) / 1e9);
    return errors || replies < sent;
}
