/* An application that says 200 at once, so that it is never what is measured.
 *
 * sink STATE_FILE CAPACITY PORT: listens on 127.0.0.1 (port 0: a free one), answers every request
 * over keep-alive connections, and keeps its books in STATE_FILE, which whoever started it has
 * mapped, too: struct state, then an arrival per request as long as there is room.
 * benchmarks/sink.py knows the same layout. It ends when its standard input does.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 16, CONNECTIONS = 4096, DELAYED = 1 << 16 };

struct state {
    uint64_t port;
    uint64_t capacity;
    uint64_t requests; /* written last: what it counts is there */
    uint64_t first_ns, last_ns;
    uint64_t connections;
    uint64_t delay_us; /* written from outside: how long an answer takes */
    uint64_t hang;     /* written from outside: not 0, nobody is answered */
};

struct arrival {
    uint64_t ns;
    uint64_t i_event;
    uint64_t i_account;
};

struct connection {
    int open;
    uint32_t generation;
    size_t used;
    char data[BUFFER];
};

/* Answers that wait. The delay is the same for all, so the first that came is the first due. */
struct delayed {
    uint64_t due_ns;
    int fd;
    uint32_t generation;
};

static struct state *state;
static struct arrival *arrivals;
static struct connection *connections;
static struct delayed delayed[DELAYED];
static size_t delayed_from, delayed_to;
static int epoll, timer;

static const char REPLY[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
}

static void drop(int fd) {
    close(fd);
    connections[fd].open = 0;
    connections[fd].generation++;
}

/* The number after a name such as "i_event": in a JSON text; 0 if it is not there. */
static uint64_t number_after(const char *body, size_t length, const char *name) {
    const char *found = memmem(body, length, name, strlen(name));
    const char *end = body + length;
    if (!found) return 0;
    found += strlen(name);
    while (found < end && (*found == ' ' || *found == ':')) found++;
    uint64_t number = 0;
    while (found < end && *found >= '0' && *found <= '9') number = number * 10 + (*found++ - '0');
    return number;
}

static void note(const char *body, size_t length) {
    uint64_t now = now_ns(), number = state->requests;
    if (number == 0) state->first_ns = now;
    state->last_ns = now;
    if (number < state->capacity) {
        arrivals[number].ns = now;
        arrivals[number].i_event = number_after(body, length, "\"i_event\"");
        arrivals[number].i_account = number_after(body, length, "\"i_account\"");
    }
    __atomic_store_n(&state->requests, number + 1, __ATOMIC_RELEASE);
}

static void arm(void) {
    struct itimerspec at = {0};
    if (delayed_from != delayed_to) {
        uint64_t due = delayed[delayed_from % DELAYED].due_ns;
        at.it_value.tv_sec = (time_t)(due / 1000000000u);
        at.it_value.tv_nsec = (long)(due % 1000000000u);
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void answer(int fd) {
    if (state->hang) return;
    if (!state->delay_us) {
        if (write(fd, REPLY, sizeof REPLY - 1) < 0) drop(fd);
        return;
    }
    if (delayed_to - delayed_from == DELAYED) fail("too many answers wait");
    delayed[delayed_to++ % DELAYED] = (struct delayed){
        .due_ns = now_ns() + state->delay_us * 1000,
        .fd = fd,
        .generation = connections[fd].generation,
    };
    if (delayed_to - delayed_from == 1) arm();
}

static void answer_due(void) {
    uint64_t expirations, now = now_ns();
    if (read(timer, &expirations, sizeof expirations) < 0) return;
    for (; delayed_from != delayed_to; delayed_from++) {
        struct delayed *first = &delayed[delayed_from % DELAYED];
        if (first->due_ns > now) break;
        int known = connections[first->fd].generation == first->generation;
        if (known && write(first->fd, REPLY, sizeof REPLY - 1) < 0) drop(first->fd);
    }
    arm();
}

/* The length of the whole request at the beginning of the data; 0 if it is not all there yet. */
static size_t whole_request(char *data, size_t used, size_t *body) {
    char *end = memmem(data, used, "\r\n\r\n", 4);
    if (!end) return 0;
    *end = 0;
    char *length = strcasestr(data, "\r\ncontent-length:");
    *end = '\r';
    *body = length ? strtoul(length + 17, NULL, 10) : 0;
    size_t whole = (size_t)(end - data) + 4 + *body;
    return whole <= used ? whole : 0;
}

static void receive(int fd) {
    struct connection *from = &connections[fd];
    ssize_t got = read(fd, from->data + from->used, BUFFER - from->used - 1);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) drop(fd);
        return;
    }
    from->used += (size_t)got;
    size_t done = 0, body, length;
    while ((length = whole_request(from->data + done, from->used - done, &body))) {
        done += length;
        note(from->data + done - body, body);
        answer(fd);
        if (!from->open) return;
    }
    from->used -= done;
    if (done) memmove(from->data, from->data + done, from->used);
    if (from->used == BUFFER - 1) drop(fd);
}

static void accept_all(int listening) {
    int fd, one = 1;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= CONNECTIONS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connections[fd].open = 1;
        connections[fd].used = 0;
        state->connections++;
        watch(fd);
    }
}

static int listen_at(const char *port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)atoi(port)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t length = sizeof address;
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&address, length) < 0) fail("bind");
    if (listen(listening, 1024) < 0) fail("listen");
    getsockname(listening, (struct sockaddr *)&address, &length);
    state->port = ntohs(address.sin_port);
    return listening;
}

static void map(const char *path, uint64_t capacity) {
    size_t size = sizeof *state + capacity * sizeof *arrivals;
    int file = open(path, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, (off_t)size) < 0) fail(path);
    state = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (state == MAP_FAILED) fail("mmap");
    state->capacity = capacity;
    arrivals = (struct arrival *)(state + 1);
    close(file);
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    map(arguments[1], strtoull(arguments[2], NULL, 10));
    connections = calloc(CONNECTIONS, sizeof *connections);
    epoll = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int listening = listen_at(arguments[3]);
    watch(listening);
    watch(timer);
    watch(STDIN_FILENO);
    puts("listening");
    fflush(stdout);
    struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int each = 0; each < ready; each++) {
            int fd = events[each].data.fd;
            if (fd == STDIN_FILENO) return 0;
            if (fd == listening) accept_all(listening);
            else if (fd == timer) answer_due();
            else if (connections[fd].open) receive(fd);
        }
    }
}
