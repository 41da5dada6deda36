/* Makes the n-th system call that changes a watched folder fail. Loaded with LD_PRELOAD.
 *
 * Python, Rust (safetensors, tokenizers) and C++ (Arrow) all reach the disk through libc, so that
 * every write of every library passes here; only the rename at the end of a safetensors file does not,
 * a raw system call inside a folder that has no name yet. Nothing happens until arm() is called. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode {
    FULL,  /* the disk is full from the n-th call that needs space on */
    EIO_,  /* the n-th call fails with EIO, the next ones work */
    SHORT, /* the n-th write takes half of its bytes, then the disk is full */
    KILL,  /* the process dies before the n-th call */
    TORN,  /* the n-th write takes half of its bytes, then the process dies */
    POWER  /* as KILL, and what was written but not flushed is lost */
};

enum kind { WRITE = 1, SPACE = 2, FLUSH = 4, OTHER = 8 }; /* SPACE: needs room for a name */

static char watched[PATH_MAX];
static size_t watched_length;
static enum mode mode;
static long target, seen;
static char struck[PATH_MAX + 64];

#define MAX_DIRTY 4096
static ino_t dirty[MAX_DIRTY];
static int num_dirty;

void arm(const char *folder, int the_mode, long point) {
    strncpy(watched, folder, sizeof watched - 1);
    watched_length = strlen(watched);
    mode = the_mode;
    target = point;
    seen = num_dirty = 0;
    struck[0] = 0;
}

void disarm(void) { watched_length = 0; }

/* The call that was struck and its path; empty if there were fewer calls than the point. */
const char *what_was_struck(void) { return struck; }

static int is_watched(const char *path) {
    return watched_length && !strncmp(path, watched, watched_length) &&
           (path[watched_length] == '/' || !path[watched_length]);
}

static int path_of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

static const char *absolute(int dirfd, const char *path, char *out) {
    if (!path || path[0] == '/') return path ? path : "";
    if (dirfd == AT_FDCWD) {
        if (!getcwd(out, PATH_MAX)) return "";
    } else if (!path_of_fd(dirfd, out))
        return "";
    size_t length = strlen(out);
    snprintf(out + length, PATH_MAX - length, "/%s", path);
    return out;
}

static int dirty_index(ino_t inode) {
    for (int i = 0; i < num_dirty; i++)
        if (dirty[i] == inode) return i;
    return -1;
}

static void note_written(int fd) {
    struct stat status;
    if (!fstat(fd, &status) && dirty_index(status.st_ino) < 0 && num_dirty < MAX_DIRTY)
        dirty[num_dirty++] = status.st_ino;
}

static void note_flushed(int fd) {
    struct stat status;
    int i = fstat(fd, &status) ? -1 : dirty_index(status.st_ino);
    if (i >= 0) dirty[i] = dirty[--num_dirty];
}

static int lose_if_dirty(const char *path, const struct stat *status, int type, struct FTW *ftw) {
    (void)ftw;
    if (type == FTW_F && dirty_index(status->st_ino) >= 0) truncate(path, 0);
    return 0;
}

static void die(void) {
    if (mode == POWER) {
        char folder[PATH_MAX];
        strcpy(folder, watched);
        disarm();
        nftw(folder, lose_if_dirty, 16, FTW_PHYS);
    }
    kill(getpid(), SIGKILL);
}

static int counts(enum kind kind) {
    if (mode == FULL) return kind & (WRITE | SPACE | FLUSH);
    if (mode == SHORT || mode == TORN) return kind & WRITE;
    return 1;
}

/* Count one call. Returns 0 to let it happen, an errno to fail it with, or -1 to halve a write. */
static int strike(enum kind kind, const char *call, const char *path) {
    if (!is_watched(path)) return 0;
    if (mode == SHORT && seen >= target) return kind & (WRITE | SPACE | FLUSH) ? ENOSPC : 0;
    if (!counts(kind)) return 0;
    seen++;
    if (seen < target || (seen > target && mode != FULL)) return 0;
    if (seen == target) snprintf(struck, sizeof struck, "%s %s", call, path + watched_length);
    if (mode == FULL) return ENOSPC;
    if (mode == EIO_) return EIO;
    if (mode == SHORT || mode == TORN) return -1;
    die();
    return 0;
}

/* The operation is over and has said so: a process that dies now must not take anything back. */
void end(void) {
    if (mode == KILL || mode == POWER) strike(OTHER, "end", watched);
}

static int strike_fd(enum kind kind, const char *call, int fd) {
    char path[PATH_MAX];
    return watched_length && path_of_fd(fd, path) ? strike(kind, call, path) : 0;
}

static int strike_path(enum kind kind, const char *call, int dirfd, const char *path) {
    char buffer[PATH_MAX];
    return watched_length ? strike(kind, call, absolute(dirfd, path, buffer)) : 0;
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF(expression) do { int number = (expression); if (number) { errno = number; return -1; } } while (0)

/* Writes. */

#define STRIKE_WRITE(call, fd, count, whole, half)                       \
    do {                                                                 \
        int number = strike_fd(WRITE, call, fd);                         \
        if (number > 0) { errno = number; return -1; }                   \
        ssize_t done = number < 0 && (count) > 1 ? (half) : (whole);     \
        if (number < 0 && mode == TORN) die();                           \
        if (watched_length && done > 0) note_written(fd);                \
        return done;                                                     \
    } while (0)

ssize_t write(int fd, const void *bytes, size_t count) {
    STRIKE_WRITE("write", fd, count, REAL(write)(fd, bytes, count), REAL(write)(fd, bytes, count / 2));
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    STRIKE_WRITE("pwrite", fd, count, REAL(pwrite64)(fd, bytes, count, at), REAL(pwrite64)(fd, bytes, count / 2, at));
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    STRIKE_WRITE("writev", fd, count, REAL(writev)(fd, parts, count), REAL(writev)(fd, parts, count / 2));
}

ssize_t sendfile64(int out, int in, off64_t *at, size_t count) {
    STRIKE_WRITE("sendfile", out, count, REAL(sendfile64)(out, in, at, count), REAL(sendfile64)(out, in, at, 16));
}

ssize_t sendfile(int out, int in, off_t *at, size_t count) { return sendfile64(out, in, at, count); }

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags) {
    STRIKE_WRITE("copy_file_range", out, count, REAL(copy_file_range)(in, from, out, to, count, flags),
                 REAL(copy_file_range)(in, from, out, to, 16, flags));
}

int ftruncate64(int fd, off64_t length) {
    FAIL_IF(strike_fd(SPACE, "ftruncate", fd));
    return REAL(ftruncate64)(fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int posix_fallocate64(int fd, off64_t at, off64_t length) {
    int number = strike_fd(SPACE, "fallocate", fd);
    return number ? number : REAL(posix_fallocate64)(fd, at, length);
}

int posix_fallocate(int fd, off_t at, off_t length) { return posix_fallocate64(fd, at, length); }

/* Flushes. */

int fsync(int fd) {
    FAIL_IF(strike_fd(FLUSH, "fsync", fd));
    if (watched_length) note_flushed(fd);
    return REAL(fsync)(fd);
}

int fdatasync(int fd) {
    FAIL_IF(strike_fd(FLUSH, "fdatasync", fd));
    if (watched_length) note_flushed(fd);
    return REAL(fdatasync)(fd);
}

/* Names. */

static int opens_to_change(int flags) { return flags & (O_CREAT | O_TRUNC); }

#define MODE_ARGUMENT(flags) va_list list; va_start(list, flags); mode_t bits = va_arg(list, mode_t); va_end(list)

int open64(const char *path, int flags, ...) {
    MODE_ARGUMENT(flags);
    if (opens_to_change(flags)) FAIL_IF(strike_path(SPACE, "open", AT_FDCWD, path));
    return REAL(open64)(path, flags, bits);
}

int open(const char *path, int flags, ...) {
    MODE_ARGUMENT(flags);
    return open64(path, flags, bits);
}

int openat64(int dirfd, const char *path, int flags, ...) {
    MODE_ARGUMENT(flags);
    if (opens_to_change(flags)) FAIL_IF(strike_path(SPACE, "open", dirfd, path));
    return REAL(openat64)(dirfd, path, flags, bits);
}

int openat(int dirfd, const char *path, int flags, ...) {
    MODE_ARGUMENT(flags);
    return openat64(dirfd, path, flags, bits);
}

int mkdir(const char *path, mode_t bits) {
    FAIL_IF(strike_path(SPACE, "mkdir", AT_FDCWD, path));
    return REAL(mkdir)(path, bits);
}

int mkdirat(int dirfd, const char *path, mode_t bits) {
    FAIL_IF(strike_path(SPACE, "mkdir", dirfd, path));
    return REAL(mkdirat)(dirfd, path, bits);
}

int rename(const char *from, const char *to) {
    FAIL_IF(strike_path(SPACE, "rename", AT_FDCWD, to));
    return REAL(rename)(from, to);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    FAIL_IF(strike_path(SPACE, "rename", to_fd, to));
    return REAL(renameat)(from_fd, from, to_fd, to);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
    FAIL_IF(strike_path(SPACE, "exchange", to_fd, to));
    return REAL(renameat2)(from_fd, from, to_fd, to, flags);
}

int unlink(const char *path) {
    FAIL_IF(strike_path(OTHER, "unlink", AT_FDCWD, path));
    return REAL(unlink)(path);
}

int unlinkat(int dirfd, const char *path, int flags) {
    FAIL_IF(strike_path(OTHER, "unlink", dirfd, path));
    return REAL(unlinkat)(dirfd, path, flags);
}

int rmdir(const char *path) {
    FAIL_IF(strike_path(OTHER, "rmdir", AT_FDCWD, path));
    return REAL(rmdir)(path);
}

int chmod(const char *path, mode_t bits) {
    FAIL_IF(strike_path(OTHER, "chmod", AT_FDCWD, path));
    return REAL(chmod)(path, bits);
}

int utimensat(int dirfd, const char *path, const struct timespec times[2], int flags) {
    FAIL_IF(strike_path(OTHER, "utimensat", dirfd, path));
    return REAL(utimensat)(dirfd, path, times, flags);
}
