/* Fails, records and interrupts the system calls that change one folder.

   Built and preloaded by failing_calls.py, which calls faults_set.  The calls are numbered from 1 in
   the order in which they are made, one at a time.  Before each, the folder may be copied: the copy is
   what a process that is killed at this call leaves.  Each is recorded in a line of a log:
   number, call, error, path, second path. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], copies[PATH_MAX];
static long count, fail_at;
static int error_number, is_lasting, is_brief, log_file = -1;

long faults_count(void) { return count; }

/* Whether only a file that is synchronised is copied, and not the folder before each call. */
void faults_copy_files(int brief) { is_brief = brief; }

/* folder: to watch, "" for none; at: number of the call that fails, 0 for none; error: with which it
   fails, or 0 for SIGKILL; lasting: whether all later ones fail as well; into: folder for the copies,
   "" for none; log: a descriptor, or -1. */
void faults_set(const char *folder, long at, int error, int lasting, const char *into, int log) {
    pthread_mutex_lock(&lock);
    snprintf(root, sizeof root, "%s", folder);
    snprintf(copies, sizeof copies, "%s", into);
    count = 0, fail_at = at, error_number = error, is_lasting = lasting, log_file = log;
    pthread_mutex_unlock(&lock);
}

static int is_inside(const char *path) {
    size_t length = strlen(root);
    return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static void path_of(int descriptor, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    out[length < 0 ? 0 : length] = 0;
}

static void absolute(int folder, const char *path, char *out) {
    char base[PATH_MAX] = "";
    if (path[0] != '/') {
        if (folder != AT_FDCWD) path_of(folder, base);
        else if (!getcwd(base, sizeof base)) base[0] = 0;
    }
    int length = snprintf(out, PATH_MAX, "%s%s%s", base, base[0] ? "/" : "", path);
    if (length >= PATH_MAX) out[0] = 0;
}

static void spawn(char *const words[]) {
    char *const clean[] = {"PATH=/usr/bin:/bin", NULL}; /* the command itself is not watched */
    pid_t child;
    if (!posix_spawnp(&child, words[0], NULL, NULL, words, clean)) waitpid(child, NULL, 0);
}

static void copy_folder(void) {
    char target[PATH_MAX + 32];
    snprintf(target, sizeof target, "%s/%ld", copies, count);
    char *const words[] = {"cp", "-a", root, target, NULL};
    spawn(words);
}

static void copy_file(const char *path) {
    char target[2 * PATH_MAX + 32];
    struct stat found;
    if (stat(path, &found) || !S_ISREG(found.st_mode)) return;
    snprintf(target, sizeof target, "%s/%ld%s", copies, count, path + strlen(root));
    char *const words[] = {"install", "-D", (char *)path, target, NULL};
    spawn(words);
}

static void record(const char *call, int error, const char *a, const char *b) {
    if (log_file >= 0) dprintf(log_file, "%ld\t%s\t%d\t%s\t%s\n", count, call, error, a, b);
}

/* Returns 1 with the lock held if the call is to be made, and 0 with errno set if it fails. */
static int enter(const char *call, const char *a) {
    pthread_mutex_lock(&lock);
    count++;
    if (copies[0] && !is_brief) copy_folder();
    if (copies[0] && is_brief && !strcmp(call, "fsync")) copy_file(a);
    if (count == fail_at && !error_number) kill(getpid(), SIGKILL);
    if (fail_at && (count == fail_at || (is_lasting && count > fail_at))) {
        record(call, error_number, a, "");
        pthread_mutex_unlock(&lock);
        errno = error_number;
        return 0;
    }
    return 1;
}

static void leave(const char *call, long result, const char *a, const char *b) {
    int error = errno;
    record(call, result < 0 ? error : 0, a, b);
    pthread_mutex_unlock(&lock);
    errno = error;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WATCHED(call, type, a, b, real)      \
    do {                                     \
        if (!enter(call, a)) return -1;      \
        type result = real;                  \
        leave(call, (long)result, a, b);     \
        return result;                       \
    } while (0)

#define ON_DESCRIPTOR(name, call, type, parameters, arguments)       \
    type name parameters {                                           \
        char path[PATH_MAX] = "";                                    \
        if (root[0]) path_of(descriptor, path);                      \
        if (!is_inside(path)) return REAL(name) arguments;           \
        WATCHED(call, type, path, "", REAL(name) arguments);         \
    }

ON_DESCRIPTOR(write, "write", ssize_t, (int descriptor, const void *data, size_t size),
              (descriptor, data, size))
ON_DESCRIPTOR(pwrite, "write", ssize_t, (int descriptor, const void *data, size_t size, off_t at),
              (descriptor, data, size, at))
ON_DESCRIPTOR(pwrite64, "write", ssize_t, (int descriptor, const void *data, size_t size, off64_t at),
              (descriptor, data, size, at))
ON_DESCRIPTOR(writev, "write", ssize_t, (int descriptor, const struct iovec *parts, int size),
              (descriptor, parts, size))
ON_DESCRIPTOR(fsync, "fsync", int, (int descriptor), (descriptor))
ON_DESCRIPTOR(fdatasync, "fsync", int, (int descriptor), (descriptor))
ON_DESCRIPTOR(ftruncate, "truncate", int, (int descriptor, off_t size), (descriptor, size))
ON_DESCRIPTOR(ftruncate64, "truncate", int, (int descriptor, off64_t size), (descriptor, size))

#define ON_PATH(name, call, parameters, arguments, folder)     \
    int name parameters {                                      \
        char path[PATH_MAX] = "";                              \
        if (root[0]) absolute(folder, file, path);             \
        if (!is_inside(path)) return REAL(name) arguments;     \
        WATCHED(call, int, path, "", REAL(name) arguments);    \
    }

ON_PATH(unlink, "unlink", (const char *file), (file), AT_FDCWD)
ON_PATH(unlinkat, "unlink", (int at, const char *file, int flags), (at, file, flags), at)
ON_PATH(rmdir, "unlink", (const char *file), (file), AT_FDCWD)
ON_PATH(mkdir, "mkdir", (const char *file, mode_t mode), (file, mode), AT_FDCWD)
ON_PATH(mkdirat, "mkdir", (int at, const char *file, mode_t mode), (at, file, mode), at)

#define ON_RENAME(name, parameters, arguments, from, to)                     \
    int name parameters {                                                    \
        char a[PATH_MAX] = "", b[PATH_MAX] = "";                             \
        if (root[0]) absolute(from, old, a), absolute(to, new, b);           \
        if (!is_inside(a) && !is_inside(b)) return REAL(name) arguments;     \
        WATCHED("rename", int, a, b, REAL(name) arguments);                  \
    }

ON_RENAME(rename, (const char *old, const char *new), (old, new), AT_FDCWD, AT_FDCWD)
ON_RENAME(renameat, (int from, const char *old, int to, const char *new), (from, old, to, new), from, to)
ON_RENAME(renameat2, (int from, const char *old, int to, const char *new, unsigned flags),
          (from, old, to, new, flags), from, to)

/* Only files that are opened to be written count; "create" is recorded for a new one. */
#define ON_OPEN(name, parameters, folder, arguments)                             \
    int name parameters {                                                        \
        char path[PATH_MAX] = "";                                                \
        mode_t mode = 0;                                                         \
        if (flags & (O_CREAT | O_TMPFILE)) {                                     \
            va_list more;                                                        \
            va_start(more, flags);                                               \
            mode = va_arg(more, mode_t);                                         \
            va_end(more);                                                        \
        }                                                                        \
        if (root[0] && (flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC)))        \
            absolute(folder, file, path);                                        \
        if (!is_inside(path)) return REAL(name) arguments;                       \
        const char *call = access(path, F_OK) ? "create" : "open";               \
        WATCHED(call, int, path, flags & O_TRUNC ? "truncated" : "", REAL(name) arguments); \
    }

ON_OPEN(open, (const char *file, int flags, ...), AT_FDCWD, (file, flags, mode))
ON_OPEN(open64, (const char *file, int flags, ...), AT_FDCWD, (file, flags, mode))
ON_OPEN(openat, (int at, const char *file, int flags, ...), at, (at, file, flags, mode))
ON_OPEN(openat64, (int at, const char *file, int flags, ...), at, (at, file, flags, mode))
