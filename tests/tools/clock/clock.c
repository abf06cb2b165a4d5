/*
 * A wall clock of a test's own, for one process: LD_PRELOAD this, and name a file in JITGATE_TEST_CLOCK.
 *
 * The file holds three 64-bit integers, native byte order: nanoseconds to add to the wall clock, parts per million by
 * which it runs too fast, and a number that is another one with each change: it runs too fast from the first reading
 * that sees the change. The file is mapped, so a change counts at once. Every other clock is the machine's, and the
 * machine's own is never touched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static const volatile int64_t *offset_rate_change;
static volatile int64_t seen_change = -1, fast_since;

static void set_up(void) {
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("JITGATE_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, 3 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        offset_rate_change = mapped;
}

__attribute__((constructor)) static void at_start(void) {
    if (!real_clock_gettime)
        set_up();
}

static int64_t nanos(const struct timespec *time) {
    return (int64_t)time->tv_sec * 1000000000 + time->tv_nsec;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    at_start();
    int result = real_clock_gettime(clock, time);
    if (result != 0 || !offset_rate_change || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return result;
    struct timespec monotonic;
    real_clock_gettime(CLOCK_MONOTONIC, &monotonic);
    int64_t now = nanos(&monotonic);
    if (seen_change != offset_rate_change[2]) {
        fast_since = now;
        seen_change = offset_rate_change[2];
    }
    int64_t gained = (now - fast_since) / 1000 * offset_rate_change[1] / 1000;
    int64_t wall = nanos(time) + offset_rate_change[0] + gained;
    time->tv_sec = wall / 1000000000;
    time->tv_nsec = wall % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
