/* The floor: the least that can be done to bring a message from Redis pub/sub to a WebSocket.
 *
 *   floor REDIS_PORT [--join]
 *
 * Serves on a loopback port that it prints as its first line. The path of an upgrade names the channel
 * ("/ws/NAME" hears channel NAME); each message of it goes to each of its sockets as one text frame.
 * With --join the frames of one read from Redis leave in one write per socket. No queues, no heartbeat,
 * no authentication, no guarantee: what does not fit into a socket's buffer is dropped. At SIGTERM
 * it tells how many writes there were, and how many dropped. One process, one thread, one Redis connection.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_SOCKETS = 65536, BUCKETS = 1 << 17, READ_BYTES = 1 << 18, REQUEST_BYTES = 8192 };

typedef struct client {
    int fd;
    struct client *next;           /* of the same channel */
    struct channel *channel;
    char *request; size_t requested; /* until the upgrade is answered */
    char *out; size_t pending, room; /* --join only */
} client;

typedef struct channel { char *name; size_t length; client *clients; struct channel *next; } channel;

static channel *table[BUCKETS];
static client *clients[MOST_SOCKETS];
static client *dirty[MOST_SOCKETS];
static int dirty_count, redis_fd, epoll_fd, joining;
static unsigned long writes, dropped;
static volatile sig_atomic_t ended;

static void end(int signal_number) { (void)signal_number; ended = 1; }

static void die(const char *what) { perror(what); exit(1); }

static channel *find(const char *name, size_t length, int make) {
    unsigned long hash = 5381;
    for (size_t i = 0; i < length; i++) hash = hash * 33 ^ (unsigned char)name[i];
    channel **place = &table[hash % BUCKETS];
    for (channel *each = *place; each; each = each->next)
        if (each->length == length && !memcmp(each->name, name, length)) return each;
    if (!make) return NULL;
    channel *made = calloc(1, sizeof *made);
    made->name = strndup(name, length);
    made->length = length;
    made->next = *place;
    return *place = made;
}

static void send_all(int fd, const char *bytes, size_t length) {
    while (length) {
        ssize_t sent = write(fd, bytes, length);
        if (sent < 0) die("write to Redis");
        bytes += sent, length -= (size_t)sent;
    }
}

static void tell_redis(const char *verb, const channel *which) {
    char command[2 * REQUEST_BYTES];
    int length = snprintf(command, sizeof command, "*2\r\n$%zu\r\n%s\r\n$%zu\r\n%.*s\r\n",
                          strlen(verb), verb, which->length, (int)which->length, which->name);
    send_all(redis_fd, command, (size_t)length);
}

static void leave(client *gone) {
    channel *of = gone->channel;
    if (of) {
        client **place = &of->clients;
        while (*place && *place != gone) place = &(*place)->next;
        if (*place) *place = gone->next;
        if (!of->clients) tell_redis("UNSUBSCRIBE", of);
    }
    for (int i = 0; i < dirty_count; i++) if (dirty[i] == gone) dirty[i] = NULL;
    clients[gone->fd] = NULL;
    close(gone->fd);
    free(gone->request), free(gone->out), free(gone);
}

static void put(client *to, const char *bytes, size_t length) {
    ssize_t sent = send(to->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    writes++;
    if (sent != (ssize_t)length) dropped++;
}

static void deliver(client *to, const char *frame, size_t length) {
    if (!joining) { put(to, frame, length); return; }
    if (!to->pending) dirty[dirty_count++] = to;
    if (to->pending + length > to->room) {
        to->room = (to->pending + length) * 2;
        to->out = realloc(to->out, to->room);
    }
    memcpy(to->out + to->pending, frame, length);
    to->pending += length;
}

static void forward(const channel *which, const char *payload, size_t length) {
    static char frame[READ_BYTES + 16];
    size_t head = 2;
    frame[0] = (char)0x81;
    if (length < 126) frame[1] = (char)length;
    else if (length < 65536) {
        frame[1] = 126, frame[2] = (char)(length >> 8), frame[3] = (char)length, head = 4;
    } else {
        frame[1] = 127, head = 10;
        for (int i = 0; i < 8; i++) frame[2 + i] = (char)(length >> (56 - 8 * i));
    }
    memcpy(frame + head, payload, length);
    for (client *each = which->clients; each; each = each->next) deliver(each, frame, head + length);
}

static void flush(void) {
    for (int i = 0; i < dirty_count; i++) {
        if (!dirty[i]) continue;
        put(dirty[i], dirty[i]->out, dirty[i]->pending);
        dirty[i]->pending = 0;
    }
    dirty_count = 0;
}

/* One reply of the subscriber's connection: "*3" of bulk strings, the last one perhaps an integer.
 * Returns the bytes used, 0 when it is not all there yet. */
static size_t reply(const char *at, const char *stop) {
    const char *start = at, *part[3], *line;
    size_t length[3];
    if (!(line = memchr(at, '\n', (size_t)(stop - at)))) return 0;
    if (*at != '*') { fprintf(stderr, "Redis: %.*s", (int)(line - at), at); exit(1); }
    at = line + 1;
    for (int i = 0; i < 3; i++) {
        if (at >= stop || !(line = memchr(at, '\n', (size_t)(stop - at)))) return 0;
        if (*at == ':') { part[i] = at + 1, length[i] = 0, at = line + 1; continue; }
        long size = atol(at + 1);
        if (size < 0) { part[i] = at, length[i] = 0, at = line + 1; continue; }
        part[i] = line + 1, length[i] = (size_t)size;
        if (part[i] + size + 2 > stop) return 0;
        at = part[i] + size + 2;
    }
    if (length[0] == 7 && !memcmp(part[0], "message", 7)) {
        channel *which = find(part[1], length[1], 0);
        if (which) forward(which, part[2], length[2]);
    }
    return (size_t)(at - start);
}

static void hear(void) {
    static char buffer[READ_BYTES];
    static size_t held;
    ssize_t got = read(redis_fd, buffer + held, sizeof buffer - held);
    if (got <= 0) { fprintf(stderr, "Redis is gone\n"); exit(1); }
    held += (size_t)got;
    size_t used = 0, one;
    while (used < held && (one = reply(buffer + used, buffer + held))) used += one;
    memmove(buffer, buffer + used, held - used);
    held -= used;
    if (joining) flush();
}

static void answer(client *asking) {
    static const char upgrade[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    char *path = strchr(asking->request, ' ');
    path = path ? strstr(path, "/ws/") : NULL;
    size_t length = path ? strcspn(path + 4, " ?\r") : 0;
    if (!length) { leave(asking); return; }
    asking->channel = find(path + 4, length, 1);
    if (!asking->channel->clients) tell_redis("SUBSCRIBE", asking->channel);
    asking->next = asking->channel->clients;
    asking->channel->clients = asking;
    put(asking, upgrade, sizeof upgrade - 1);
    free(asking->request), asking->request = NULL;
}

static void hear_client(client *from) {
    char ignored[4096];
    if (from->channel) {
        ssize_t got = read(from->fd, ignored, sizeof ignored);
        if (got == 0 || (got < 0 && errno != EAGAIN)) leave(from);
        return;
    }
    ssize_t got = read(from->fd, from->request + from->requested, REQUEST_BYTES - 1 - from->requested);
    if (got <= 0) { leave(from); return; }
    from->requested += (size_t)got;
    from->request[from->requested] = 0;
    if (strstr(from->request, "\r\n\r\n")) answer(from);
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MOST_SOCKETS) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        client *made = clients[fd] = calloc(1, sizeof *made);
        made->fd = fd;
        made->request = malloc(REQUEST_BYTES);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int count, char **words) {
    if (count < 2) { fprintf(stderr, "usage: floor REDIS_PORT [--join]\n"); return 2; }
    joining = count > 2 && !strcmp(words[2], "--join");
    signal(SIGTERM, end), signal(SIGINT, end);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (void *)&address, size) || listen(listener, 4096)) die("listen");
    getsockname(listener, (void *)&address, &size);
    int port = ntohs(address.sin_port);
    redis_fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_port = htons((unsigned short)atoi(words[1]));
    if (connect(redis_fd, (void *)&address, sizeof address)) die("connect to Redis");
    setsockopt(redis_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    epoll_fd = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[256];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = redis_fd;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, redis_fd, &event);
    printf("%d\n", port);
    fflush(stdout);
    while (!ended) {
        int many = epoll_wait(epoll_fd, ready, 256, -1);
        for (int i = 0; i < many; i++) {
            int fd = ready[i].data.fd;
            if (fd == redis_fd) hear();
            else if (fd == listener) accept_all(listener);
            else if (clients[fd]) hear_client(clients[fd]);
        }
    }
    fprintf(stderr, "%lu writes, %lu dropped\n", writes, dropped);
    return 0;
}
