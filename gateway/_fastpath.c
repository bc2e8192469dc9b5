/* The usual event's way from Redis to its socket: parsed, proven to be next and its owner's, framed and sent.
 *
 * What it does is what gateway/hub.py, outbox.py and connection.py do, on the same objects: it keeps nothing
 * of its own. An event that is in any way unusual, and everything that is no event, is handed to the hub, in its
 * turn. gateway/fastpath.py tells when this is used; tests/unit/test_fastpath.py compares both ways. It is one file,
 * though long, for all of it stands between two lines of Python.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <sys/socket.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* Python ignores SIGPIPE where this does not exist */
#endif

enum { FEED, FOLLOWER, MEMBER, OUTBOX, CLASSES };

/* Attributes are read where their slots are: a lookup by name costs as much as all of the rest. */
typedef struct {
    PyObject_HEAD
    PyTypeObject *classes[CLASSES];
    PyObject *noted; /* types of events that begin or end something */
    Py_ssize_t most_unsent, longest_trail, trail_cut;
    struct {
        Py_ssize_t owner, follower, live, joining, batch;
    } feed;
    struct {
        Py_ssize_t raw, level, trail;
    } follower;
    struct {
        Py_ssize_t owner, whole, outbox, fd, closing;
    } member;
    struct {
        Py_ssize_t first, more, size, held, stalled;
    } outbox;
} FastPath;

static const struct {
    int of;
    const char *name;
    size_t at;
} SLOTS[] = {
    {FEED, "owner", offsetof(FastPath, feed.owner)},
    {FEED, "follower", offsetof(FastPath, feed.follower)},
    {FEED, "live", offsetof(FastPath, feed.live)},
    {FEED, "joining", offsetof(FastPath, feed.joining)},
    {FEED, "batch", offsetof(FastPath, feed.batch)},
    {FOLLOWER, "raw", offsetof(FastPath, follower.raw)},
    {FOLLOWER, "level", offsetof(FastPath, follower.level)},
    {FOLLOWER, "_trail", offsetof(FastPath, follower.trail)},
    {MEMBER, "owner", offsetof(FastPath, member.owner)},
    {MEMBER, "whole", offsetof(FastPath, member.whole)},
    {MEMBER, "outbox", offsetof(FastPath, member.outbox)},
    {MEMBER, "_fd", offsetof(FastPath, member.fd)},
    {MEMBER, "_closing", offsetof(FastPath, member.closing)},
    {OUTBOX, "_first", offsetof(FastPath, outbox.first)},
    {OUTBOX, "_more", offsetof(FastPath, outbox.more)},
    {OUTBOX, "_size", offsetof(FastPath, outbox.size)},
    {OUTBOX, "held", offsetof(FastPath, outbox.held)},
    {OUTBOX, "stalled", offsetof(FastPath, outbox.stalled)},
};

static PyObject *nothing, *zero, *flush_name, *on_message, *dirty_name, *first_heard, *first_body;

enum { ID = 0, PREV = 1, OWNER = 2, TYPE = 6, WORDS = 7 }; /* of a header: broker/codec.py */

typedef struct {
    const char *at;
    Py_ssize_t size;
} Span;

static inline PyObject *get(PyObject *object, Py_ssize_t at) { return *(PyObject **)((char *)object + at); }

static inline void put(PyObject *object, Py_ssize_t at, PyObject *value) {
    PyObject *before = get(object, at);
    *(PyObject **)((char *)object + at) = value;
    Py_XDECREF(before);
}

static inline bool is(PyObject *bytes, Span span) {
    return bytes != NULL && PyBytes_CheckExact(bytes) && PyBytes_GET_SIZE(bytes) == span.size &&
           memcmp(PyBytes_AS_STRING(bytes), span.at, (size_t)span.size) == 0;
}

static inline bool is_dict(PyObject *object, Py_ssize_t size) {
    return object != NULL && PyDict_CheckExact(object) && PyDict_GET_SIZE(object) == size;
}

static Py_ssize_t digits(const char *at, const char *end) {
    const char *begin = at;
    while (at < end && *at >= '0' && *at <= '9') at++;
    return at - begin;
}

/* broker.codec.is_id */
static bool is_id(Span span) {
    const char *end = span.at + span.size;
    Py_ssize_t ms = digits(span.at, end);
    if (ms < 1 || ms > 20 || ms == span.size || span.at[ms] != '-') return false;
    Py_ssize_t number = digits(span.at + ms + 1, end);
    return number >= 1 && number <= 20 && ms + 1 + number == span.size;
}

static bool is_noted(const FastPath *path, Span type) {
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(path->noted); index++)
        if (is(PyTuple_GET_ITEM(path->noted, index), type)) return true;
    return false;
}

/* gateway.frames.ws_event, for the sizes that nearly all have (RFC 6455 section 5.2); NULL without an error for
 * any other. */
static PyObject *framed(Span id, Span body) {
    Py_ssize_t size = id.size + body.size + 8;
    if (body.size < 1 || size < 126 || size > 65535) return NULL;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, size + 4);
    if (frame == NULL) return NULL;
    char *to = PyBytes_AS_STRING(frame);
    *to++ = (char)0x81;
    *to++ = 126;
    *to++ = (char)(size >> 8);
    *to++ = (char)(size & 255);
    memcpy(to, "{\"id\":\"", 7);
    to += 7;
    memcpy(to, id.at, (size_t)id.size);
    to += id.size;
    memcpy(to, "\",", 2);
    memcpy(to + 2, body.at + 1, (size_t)body.size - 1);
    return frame;
}

/* Outbox.push, of an outbox that has room. */
static int push(const FastPath *path, PyObject *outbox, PyObject *frame) {
    PyObject *more = get(outbox, path->outbox.more);
    Py_ssize_t before = PyLong_AsSsize_t(get(outbox, path->outbox.size));
    if (before == -1 && PyErr_Occurred()) return -1;
    PyObject *size = PyLong_FromSsize_t(before + PyBytes_GET_SIZE(frame));
    if (size == NULL) return -1;
    if (PyBytes_GET_SIZE(get(outbox, path->outbox.first)) == 0) {
        put(outbox, path->outbox.first, Py_NewRef(frame));
    } else if (more == Py_None) {
        PyObject *list = PyList_New(1);
        if (list == NULL) {
            Py_DECREF(size);
            return -1;
        }
        PyList_SET_ITEM(list, 0, Py_NewRef(frame));
        put(outbox, path->outbox.more, list);
    } else if (PyList_Append(more, frame) < 0) {
        Py_DECREF(size);
        return -1;
    }
    put(outbox, path->outbox.size, size);
    return 0;
}

static bool has_room(const FastPath *path, PyObject *outbox) {
    PyObject *first = get(outbox, path->outbox.first), *more = get(outbox, path->outbox.more),
             *size = get(outbox, path->outbox.size);
    return get(outbox, path->outbox.stalled) == Py_False && first != NULL && PyBytes_CheckExact(first) && more != NULL &&
           (more == Py_None || PyList_CheckExact(more)) && size != NULL && PyLong_CheckExact(size) &&
           PyLong_AsLong(size) <= path->most_unsent;
}

/* Follower.advance */
static int advance(const FastPath *path, PyObject *follower, PyObject *id) {
    PyObject *trail = get(follower, path->follower.trail);
    if (PyList_Append(trail, get(follower, path->follower.raw)) < 0) return -1;
    if (PyList_GET_SIZE(trail) >= path->longest_trail && PyList_SetSlice(trail, 0, path->trail_cut, NULL) < 0) return -1;
    put(follower, path->follower.raw, Py_NewRef(id));
    return 0;
}

/* The hub's first_heard, unless there is one. */
static int note_first(PyObject *hub, PyObject *id, Span body) {
    PyObject *heard = PyObject_GetAttr(hub, first_heard);
    if (heard == NULL) return -1;
    bool is_there = PyObject_IsTrue(heard) == 1;
    Py_DECREF(heard);
    if (is_there) return 0;
    PyObject *text = PyBytes_FromStringAndSize(body.at, body.size);
    int done = text == NULL || PyObject_SetAttr(hub, first_heard, id) < 0 || PyObject_SetAttr(hub, first_body, text) < 0
                   ? -1
                   : 0;
    Py_XDECREF(text);
    return done;
}

/* The first branch of Hub.on_message, for a channel that one socket reads. 1: done; 0: it is not that simple, and
 * nothing was done; -1: an exception. */
static int pass(const FastPath *path, PyObject *feed, Span message, PyObject *dirty, bool is_first, PyObject *hub) {
    const char *end = message.at + message.size, *newline = memchr(message.at, '\n', (size_t)message.size);
    if (newline == NULL) return 0;
    Span words[WORDS];
    const char *at = message.at;
    for (int count = 0;; count++) {
        const char *space = memchr(at, ' ', (size_t)(newline - at));
        if (count == WORDS - 1) {
            if (space != NULL) return 0;
            words[count] = (Span){at, newline - at};
            break;
        }
        if (space == NULL) return 0;
        words[count] = (Span){at, space - at};
        at = space + 1;
    }
    PyObject *follower = get(feed, path->feed.follower), *live = get(feed, path->feed.live), *batch = get(feed, path->feed.batch);
    if (follower == NULL || Py_TYPE(follower) != path->classes[FOLLOWER] || get(follower, path->follower.level) != Py_True ||
        !is(get(follower, path->follower.raw), words[PREV]) || !is(get(feed, path->feed.owner), words[OWNER]) ||
        is_noted(path, words[TYPE]) || !is_dict(get(feed, path->feed.joining), 0) || !is_dict(live, 1) || batch == NULL ||
        !PyList_CheckExact(batch) || PyList_GET_SIZE(batch) != 0 || !is_id(words[ID]))
        return 0;
    PyObject *trail = get(follower, path->follower.trail), *member, *value;
    Py_ssize_t position = 0;
    if (trail == NULL || !PyList_CheckExact(trail) || !PyDict_Next(live, &position, &member, &value) ||
        !PyObject_TypeCheck(member, path->classes[MEMBER]) || get(member, path->member.whole) != Py_True ||
        !is(get(member, path->member.owner), words[OWNER]))
        return 0;
    PyObject *outbox = get(member, path->member.outbox);
    if (outbox == NULL || Py_TYPE(outbox) != path->classes[OUTBOX] || !has_room(path, outbox)) return 0;
    Span body = {newline + 1, end - newline - 1};
    PyObject *frame = framed(words[ID], body);
    if (frame == NULL) return PyErr_Occurred() ? -1 : 0;
    PyObject *id = PyBytes_FromStringAndSize(words[ID].at, words[ID].size);
    int done = id == NULL || advance(path, follower, id) < 0 || push(path, outbox, frame) < 0 ||
                       PyDict_SetItem(dirty, member, Py_None) < 0
                   ? -1
                   : 1;
    if (done == 1 && is_first && note_first(hub, id, body) < 0) done = -1;
    Py_DECREF(frame);
    Py_XDECREF(id);
    return done;
}

enum { ALL, PART, OTHER };

enum { MOST_DEPTH = 4 }; /* of arrays in arrays: an entry of a log has three */

/* "<digits>\r\n". ALL: ``at`` is what follows; PART: more has to come; OTHER: it is not of that form. */
static int number(const char **at, const char *end, Py_ssize_t *value) {
    Py_ssize_t count = digits(*at, end);
    const char *after = *at + count;
    if (count > 9) return OTHER;
    if (after == end) return PART;
    if (count < 1 || after[0] != '\r') return OTHER;
    if (after + 1 == end) return PART;
    if (after[1] != '\n') return OTHER;
    *value = 0;
    for (const char *each = *at; each < after; each++) *value = *value * 10 + (*each - '0');
    *at = after + 2;
    return ALL;
}

/* A number, and so many bytes and two more after it. */
static int word(const char **at, const char *end, Span *found) {
    Py_ssize_t size;
    int is_there = number(at, end, &size);
    if (is_there != ALL) return is_there;
    if (end - *at < size + 2) return PART;
    *found = (Span){*at, size};
    *at += size + 2;
    return ALL;
}

/* Of one reply of any kind that a subscriber gets (RESP3): as for ``word``. */
static int reply(const char **at, const char *end, int depth) {
    const char *begin = *at, *line;
    if (begin == end) return PART;
    switch (*begin) {
    case '+':
    case '-':
    case ':':
    case '_':
        for (line = begin; (line = memchr(line, '\r', (size_t)(end - line))) != NULL; line++) {
            if (line + 1 == end) return PART;
            if (line[1] != '\n') continue;
            *at = line + 2;
            return ALL;
        }
        return PART;
    case '$':
    case '*':
    case '~':
    case '>':
        if (end - begin >= 5 && memcmp(begin + 1, "-1\r\n", 4) == 0) {
            *at = begin + 5;
            return ALL;
        }
        if (end - begin < 5 && memcmp(begin + 1, "-1\r\n", (size_t)(end - begin - 1)) == 0) return PART;
        *at = begin + 1;
        if (*begin == '$') {
            Span found;
            return word(at, end, &found);
        }
        Py_ssize_t count;
        int is_there = depth > 0 ? number(at, end, &count) : OTHER;
        while (is_there == ALL && count-- > 0) is_there = reply(at, end, depth - 1);
        return is_there;
    default:
        return OTHER;
    }
}

/* The sockets that have something to write, as a new reference. */
static PyObject *dirty_of(PyObject *hub) {
    PyObject *dirty = PyObject_GetAttr(hub, dirty_name);
    if (dirty != NULL && !PyDict_CheckExact(dirty)) {
        Py_CLEAR(dirty);
        PyErr_Format(PyExc_TypeError, "dirty is a dict");
    }
    return dirty;
}

enum { AHEAD = 16 };

/* A message of a subscription, and where the next one begins. */
typedef struct {
    PyObject *live;
    Span text;
    const char *next;
} Message;

/* As for ``word``; ``channel`` is not an object yet. */
static int message_at(const char *at, const char *end, Span prefix, Span *channel, Message *found) {
    if (end - at < prefix.size || memcmp(at, prefix.at, (size_t)prefix.size) != 0) return OTHER;
    at += prefix.size;
    int is_there = word(&at, end, channel);
    if (is_there == ALL && at == end) is_there = PART;
    if (is_there == ALL) is_there = *at++ == '$' ? word(&at, end, &found->text) : OTHER;
    found->next = at;
    return is_there;
}

/* How many messages there are from ``at`` on, at most AHEAD; -1: an exception. ``is_there`` is what stopped them. */
static int look_ahead(const char *at, const char *end, Span prefix, Message *messages, int *is_there) {
    int count = 0;
    for (*is_there = ALL; count < AHEAD && at < end; at = messages[count++].next) {
        Span channel;
        *is_there = message_at(at, end, prefix, &channel, &messages[count]);
        if (*is_there != ALL) break;
        messages[count].live = PyBytes_FromStringAndSize(channel.at, channel.size);
        if (messages[count].live != NULL) continue;
        while (count > 0) Py_DECREF(messages[--count].live);
        return -1;
    }
    return count;
}

static inline void prefetch(const void *object, Py_ssize_t at) {
    if (object != NULL) __builtin_prefetch((const char *)object + at);
}

/* Have the processor fetch what ``pass`` will read, for all of them at the same time. Each user's objects have left
 * the caches since his last event, and one after the other they would be waited for some fifteen times per event. */
static void fetch(const FastPath *path, PyObject *feeds, const Message *messages, int count) {
    PyObject *feed[AHEAD], *follower[AHEAD], *live[AHEAD], *member[AHEAD];
    int known = 0;
    for (int index = 0; index < count; index++) {
        PyObject *found = PyDict_GetItemWithError(feeds, messages[index].live);
        if (found == NULL) PyErr_Clear(); /* whoever hears its message is told */
        if (found == NULL || Py_TYPE(found) != path->classes[FEED]) continue;
        prefetch(found, path->feed.owner);
        prefetch(found, path->feed.batch);
        feed[known++] = found;
    }
    for (int index = 0; index < known; index++) {
        follower[index] = get(feed[index], path->feed.follower);
        live[index] = get(feed[index], path->feed.live);
        prefetch(follower[index], path->follower.raw);
        prefetch(live[index], offsetof(PyDictObject, ma_keys));
        prefetch(get(feed[index], path->feed.joining), 0);
        prefetch(get(feed[index], path->feed.batch), 0);
        prefetch(get(feed[index], path->feed.owner), 0);
    }
    for (int index = 0; index < known; index++) {
        if (follower[index] != NULL && Py_TYPE(follower[index]) == path->classes[FOLLOWER]) {
            prefetch(get(follower[index], path->follower.raw), 0);
            prefetch(get(follower[index], path->follower.trail), 0);
        } else {
            follower[index] = NULL;
        }
        if (is_dict(live[index], 1))
            prefetch(((PyDictObject *)live[index])->ma_keys, 0);
        else
            live[index] = NULL;
    }
    for (int index = 0; index < known; index++) {
        PyObject *trail = follower[index] == NULL ? NULL : get(follower[index], path->follower.trail), *value;
        Py_ssize_t position = 0;
        if (trail != NULL && PyList_CheckExact(trail))
            prefetch(((PyListObject *)trail)->ob_item, PyList_GET_SIZE(trail) * (Py_ssize_t)sizeof(PyObject *));
        member[index] = NULL;
        if (live[index] != NULL && PyDict_Next(live[index], &position, &member[index], &value)) {
            prefetch(member[index], offsetof(PyObject, ob_type));
            prefetch(member[index], path->member.outbox);
        }
    }
    for (int index = 0; index < known; index++)
        if (member[index] != NULL && PyObject_TypeCheck(member[index], path->classes[MEMBER])) {
            PyObject *outbox = get(member[index], path->member.outbox);
            prefetch(outbox, 0);
            prefetch(outbox, path->outbox.stalled);
            prefetch(get(member[index], path->member.owner), 0);
            prefetch(get(member[index], path->member.fd), 0);
        }
}

/* One message: 1: it was an event that was passed on; 0: the hub heard it; -1: an exception. ``dirty`` may be another
 * one after it. */
static int hear(const FastPath *path, PyObject *feeds, PyObject *hub, const Message *message, PyObject **dirty, bool is_first) {
    PyObject *feed = PyDict_GetItemWithError(feeds, message->live);
    if (feed == NULL && PyErr_Occurred()) return -1;
    if (feed != NULL && Py_TYPE(feed) == path->classes[FEED]) {
        int done = pass(path, feed, message->text, *dirty, is_first, hub);
        if (done != 0) return done;
    }
    PyObject *text = PyBytes_FromStringAndSize(message->text.at, message->text.size), *heard = NULL;
    if (text != NULL) heard = PyObject_CallMethodObjArgs(hub, on_message, message->live, text, NULL);
    Py_XDECREF(text);
    if (heard == NULL) return -1;
    Py_DECREF(heard);
    Py_SETREF(*dirty, dirty_of(hub)); /* whatever was done there may have flushed */
    return *dirty == NULL ? -1 : 0;
}

PyDoc_STRVAR(take_doc, "take(data, at, prefix, feeds, hub) -> (at, other, passed)");

static PyObject *take(FastPath *path, PyObject *const *args, Py_ssize_t count) {
    if (count != 5 || !PyBytes_CheckExact(args[0]) || !PyLong_CheckExact(args[1]) || !PyBytes_CheckExact(args[2]) ||
        !PyDict_CheckExact(args[3]))
        return PyErr_Format(PyExc_TypeError, "take(bytes, int, bytes, dict, hub)");
    PyObject *feeds = args[3], *hub = args[4];
    Span prefix = {PyBytes_AS_STRING(args[2]), PyBytes_GET_SIZE(args[2])};
    const char *begin = PyBytes_AS_STRING(args[0]), *end = begin + PyBytes_GET_SIZE(args[0]);
    Py_ssize_t start = PyLong_AsSsize_t(args[1]), passed = 0, other = 0;
    if (start < 0 || start > end - begin) return PyErr_Format(PyExc_ValueError, "it begins outside of the data");
    const char *at = begin + start;
    PyObject *dirty = dirty_of(hub);
    if (dirty == NULL) return NULL;
    int is_there = ALL;
    while (at < end && is_there == ALL) {
        Message messages[AHEAD];
        int many = look_ahead(at, end, prefix, messages, &is_there), done = many < 0 ? -1 : 0;
        if (many > 1) fetch(path, feeds, messages, many);
        for (int index = 0; index < many; index++) {
            if (done >= 0) {
                at = messages[index].next;
                done = hear(path, feeds, hub, &messages[index], &dirty, passed == 0);
                passed += done == 1;
            }
            Py_DECREF(messages[index].live);
        }
        if (done < 0) {
            Py_XDECREF(dirty);
            return NULL;
        }
    }
    if (is_there == OTHER) {
        const char *next = at;
        is_there = reply(&next, end, MOST_DEPTH);
        other = is_there == ALL ? next - at : is_there == PART ? 0 : -1;
    }
    Py_DECREF(dirty);
    return Py_BuildValue("(nnn)", (Py_ssize_t)(at - begin), other, passed);
}

/* How many bytes the kernel took; 0 for none, whatever the reason: whoever writes the rest is told it. */
static Py_ssize_t sent_to(long fd, PyObject *data) {
    ssize_t sent;
    do sent = send((int)fd, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? 0 : (Py_ssize_t)sent;
}

/* Connection.flush of a WebSocket with one frame to write. False: nothing, or not all of it, was written, and what is
 * left is in the outbox. */
static bool flushed(const FastPath *path, PyObject *member) {
    PyObject *outbox = get(member, path->member.outbox), *fd = get(member, path->member.fd);
    if (get(member, path->member.whole) != Py_True || get(member, path->member.closing) != Py_False || outbox == NULL ||
        Py_TYPE(outbox) != path->classes[OUTBOX] || get(outbox, path->outbox.held) != Py_False ||
        get(outbox, path->outbox.more) != Py_None || fd == NULL || !PyLong_CheckExact(fd))
        return false;
    PyObject *data = get(outbox, path->outbox.first);
    long number = PyLong_AsLong(fd);
    if (number < 0 || data == NULL || !PyBytes_CheckExact(data) || PyBytes_GET_SIZE(data) == 0) return false;
    Py_ssize_t sent = sent_to(number, data), left = PyBytes_GET_SIZE(data) - sent;
    if (left == 0) {
        put(outbox, path->outbox.first, Py_NewRef(nothing));
        put(outbox, path->outbox.size, Py_NewRef(zero));
        return true;
    }
    PyObject *rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + sent, left);
    if (rest == NULL) { /* what was sent cannot be taken back: with part of a frame missing nothing may follow */
        PyErr_Clear();
        put(outbox, path->outbox.first, Py_NewRef(nothing));
        shutdown((int)number, SHUT_RDWR);
        return true;
    }
    put(outbox, path->outbox.first, rest);
    return false;
}

PyDoc_STRVAR(flush_doc, "flush(sockets): write what each has to write, in one piece");

static PyObject *flush(FastPath *path, PyObject *sockets) {
    if (!PyDict_CheckExact(sockets)) return PyErr_Format(PyExc_TypeError, "flush(dict)");
    PyObject *member, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(sockets, &position, &member, &value)) {
        if (PyObject_TypeCheck(member, path->classes[MEMBER]) && flushed(path, member)) continue;
        PyObject *done = PyObject_CallMethodNoArgs(member, flush_name);
        if (done == NULL) return NULL;
        Py_DECREF(done);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(send_doc, "send(fd, data) -> bytes that the kernel took; 0 when it has no room or the socket is broken");

static PyObject *send_(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 2 || !PyBytes_CheckExact(args[1])) return PyErr_Format(PyExc_TypeError, "send(int, bytes)");
    long fd = PyLong_AsLong(args[0]);
    if (fd == -1 && PyErr_Occurred()) return NULL;
    return PyLong_FromSsize_t(sent_to(fd, args[1]));
}

PyDoc_STRVAR(path_doc, "FastPath(feed, follower, member, outbox, noted, most_unsent, longest_trail, trail_cut): "
                       "the classes to work on, and their rules; TypeError when one lacks a slot");

static PyObject *path_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    PyObject *given[CLASSES], *noted;
    Py_ssize_t most_unsent, longest_trail, trail_cut;
    if (named != NULL && PyDict_GET_SIZE(named) != 0) return PyErr_Format(PyExc_TypeError, "FastPath takes no names");
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!nnn", &PyType_Type, &given[FEED], &PyType_Type, &given[FOLLOWER], &PyType_Type,
                          &given[MEMBER], &PyType_Type, &given[OUTBOX], &PyTuple_Type, &noted, &most_unsent,
                          &longest_trail, &trail_cut))
        return NULL;
    FastPath *path = (FastPath *)type->tp_alloc(type, 0);
    if (path == NULL) return NULL;
    for (int index = 0; index < CLASSES; index++) path->classes[index] = (PyTypeObject *)Py_NewRef(given[index]);
    path->noted = Py_NewRef(noted);
    path->most_unsent = most_unsent;
    path->longest_trail = longest_trail;
    path->trail_cut = trail_cut;
    for (size_t index = 0; index < sizeof SLOTS / sizeof SLOTS[0]; index++) {
        PyObject *of = given[SLOTS[index].of], *slot = PyObject_GetAttrString(of, SLOTS[index].name);
        if (slot != NULL && Py_TYPE(slot) == &PyMemberDescr_Type)
            *(Py_ssize_t *)((char *)path + SLOTS[index].at) = ((PyMemberDescrObject *)slot)->d_member->offset;
        else if (slot != NULL)
            PyErr_Format(PyExc_TypeError, "%R has no slot %s", of, SLOTS[index].name);
        Py_XDECREF(slot);
        if (PyErr_Occurred()) {
            Py_DECREF(path);
            return NULL;
        }
    }
    return (PyObject *)path;
}

static void path_dealloc(FastPath *path) {
    for (int index = 0; index < CLASSES; index++) Py_XDECREF(path->classes[index]);
    Py_XDECREF(path->noted);
    Py_TYPE(path)->tp_free((PyObject *)path);
}

static PyMethodDef PATH_METHODS[] = {
    {"take", (PyCFunction)(void (*)(void))take, METH_FASTCALL, take_doc},
    {"flush", (PyCFunction)(void (*)(void))flush, METH_O, flush_doc},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject FastPathType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gateway._fastpath.FastPath",
    .tp_basicsize = sizeof(FastPath),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = path_doc,
    .tp_new = path_new,
    .tp_dealloc = (destructor)path_dealloc,
    .tp_methods = PATH_METHODS,
};

static PyMethodDef METHODS[] = {
    {"send", (PyCFunction)(void (*)(void))send_, METH_FASTCALL, send_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, .m_name = "_fastpath", .m_size = -1, .m_methods = METHODS};

PyMODINIT_FUNC PyInit__fastpath(void) {
    nothing = PyBytes_FromStringAndSize(NULL, 0);
    zero = PyLong_FromLong(0);
    flush_name = PyUnicode_InternFromString("flush");
    on_message = PyUnicode_InternFromString("on_message");
    dirty_name = PyUnicode_InternFromString("dirty");
    first_heard = PyUnicode_InternFromString("first_heard");
    first_body = PyUnicode_InternFromString("first_body");
    if (!nothing || !zero || !flush_name || !on_message || !dirty_name || !first_heard || !first_body ||
        PyType_Ready(&FastPathType) < 0)
        return NULL;
    PyObject *module = PyModule_Create(&MODULE);
    if (module != NULL && PyModule_AddObjectRef(module, "FastPath", (PyObject *)&FastPathType) < 0) Py_CLEAR(module);
    return module;
}
