/* A disk that a test controls, put between a process and the C library with LD_PRELOAD.
 *
 * Files below $DISK_ROOT are watched. What has reached the disk is kept in $DISK_KEPT: a write goes there when a sync of
 * its file has returned, a name when its folder has been synced. So after a power failure, $DISK_KEPT/names is what the
 * machine would find. $DISK_CONTROL is a file of 32-bit numbers by which the test holds syncs, makes calls fail, fills
 * the disk, or kills the process in the midst of a chosen call; see disk.py for their meaning.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { LOG_SYNC = 1, DATABASE_SYNC = 2, OTHER_SYNC = 4, LOG_WRITE = 8, DATABASE_WRITE = 16, OTHER_WRITE = 32, FOLDER_SYNC = 64, RENAME = 128 };
enum { HOLD, HELD, KILL, KILL_AFTER, FAIL, FAIL_ERRNO, FAIL_COUNT, FAILED, LIMITED, ROOM, SYNCS, LOG_SYNCS, DATABASE_SYNCS, NUMBERS };
enum { MAX_FD = 4096, MAX_FILES = 1024, MAX_RANGES = 4096 };

struct range { off_t start, end; };
struct file { ino_t inode; int count; struct range ranges[MAX_RANGES]; };

static int (*real_open)(const char *, int, ...);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_close)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_unlinkat)(int, const char *, int);

static char root[PATH_MAX], kept[PATH_MAX - 300];
static volatile int *control;
static int kinds[MAX_FD];          /* what a sync of the descriptor is; 0: not watched */
static struct file *files[MAX_FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void) {
    real_open = dlsym(RTLD_NEXT, "open64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_close = dlsym(RTLD_NEXT, "close");
    real_rename = dlsym(RTLD_NEXT, "rename");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
    const char *folder = getenv("DISK_ROOT"), *safe = getenv("DISK_KEPT"), *numbers = getenv("DISK_CONTROL");
    if (!folder || !safe || !numbers) return;
    snprintf(kept, sizeof kept, "%s", safe);
    int fd = real_open(numbers, O_RDWR | O_CLOEXEC);
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, NUMBERS * sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) { perror("disk.so: the control file"); _exit(99); }
    real_close(fd);
    control = mapped;
    snprintf(root, sizeof root, "%s", folder);
}

/* The path below the root, or NULL when the file is not watched. SQLite's shared memory never has to last. */
static const char *below(const char *path) {
    size_t length = strlen(root);
    if (!length || strncmp(path, root, length) || (path[length] && path[length] != '/')) return NULL;
    size_t all = strlen(path);
    if (all > 4 && !strcmp(path + all - 4, "-shm")) return NULL;
    return path[length] ? path + length + 1 : "";
}

static void watch(int fd, const char *path, int flags) {
    if (fd < 0 || fd >= MAX_FD || !control) return;
    kinds[fd] = 0;
    if (!below(path)) return;
    size_t length = strlen(path);
    if (flags & O_DIRECTORY) kinds[fd] = FOLDER_SYNC;
    else if (length > 4 && !strcmp(path + length - 4, "-wal")) kinds[fd] = LOG_SYNC;
    else if (length > 3 && !strcmp(path + length - 3, ".db")) kinds[fd] = DATABASE_SYNC;
    else {
        struct stat status;
        kinds[fd] = !fstat(fd, &status) && S_ISDIR(status.st_mode) ? FOLDER_SYNC : OTHER_SYNC;
    }
}

static int kind_of(int fd) { return fd >= 0 && fd < MAX_FD ? kinds[fd] : 0; }

/* Whether this call is the one to die in. */
static int last_call(int kind) {
    return (control[KILL] & kind) && __sync_sub_and_fetch(&control[KILL_AFTER], 1) < 0;
}

static void die(void) { for (;;) { kill(getpid(), SIGKILL); pause(); } }

static int fails(int kind) {
    if (!(control[FAIL] & kind) || !control[FAIL_COUNT]) return 0;
    if (control[FAIL_COUNT] > 0) __sync_sub_and_fetch(&control[FAIL_COUNT], 1);
    __sync_add_and_fetch(&control[FAILED], 1);
    errno = control[FAIL_ERRNO];
    return 1;
}

static struct file *file_of(int fd, struct stat *status) {
    if (fstat(fd, status)) return NULL;
    for (int i = 0; i < MAX_FILES; i++) {
        if (!files[i]) { files[i] = calloc(1, sizeof **files); files[i]->inode = status->st_ino; }
        if (files[i]->inode == status->st_ino) return files[i];
    }
    fprintf(stderr, "disk.so: too many files\n");
    _exit(99);
}

static void written(int fd, off_t start, off_t end) {
    struct stat status;
    pthread_mutex_lock(&lock);
    struct file *file = file_of(fd, &status);
    struct range *last = file && file->count ? &file->ranges[file->count - 1] : NULL;
    if (last && start >= last->start && start <= last->end) { if (end > last->end) last->end = end; }
    else if (file && file->count < MAX_RANGES) file->ranges[file->count++] = (struct range){start, end};
    else if (file) { file->count = 1; file->ranges[0] = (struct range){0, LONG_MAX}; }
    pthread_mutex_unlock(&lock);
}

static void copy(int from, int to, struct range range) {
    char buffer[65536];
    for (off_t at = range.start; at < range.end;) {
        size_t wanted = range.end - at < (off_t)sizeof buffer ? (size_t)(range.end - at) : sizeof buffer;
        ssize_t got = pread(from, buffer, wanted, at);
        if (got <= 0) break;
        real_pwrite(to, buffer, got, at);
        at += got;
    }
}

/* A sync has returned, or has failed: then the system counts the pages as clean all the same, and they are lost. */
static void synced(int fd, int lost) {
    struct stat status;
    char path[PATH_MAX], own[64];
    pthread_mutex_lock(&lock);
    struct file *file = file_of(fd, &status);
    if (file && !lost) {
        snprintf(path, sizeof path, "%s/inodes/%lu", kept, (unsigned long)status.st_ino);
        snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
        int from = real_open(own, O_RDONLY | O_CLOEXEC), to = real_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        for (int i = 0; i < file->count; i++) copy(from, to, file->ranges[i]);
        real_ftruncate(to, status.st_size);
        real_close(from);
        real_close(to);
    }
    if (file) file->count = 0;
    pthread_mutex_unlock(&lock);
}

static void remove_all(int folder, const char *name) {
    int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    for (struct dirent *each; entries && (each = readdir(entries));)
        if (strcmp(each->d_name, ".") && strcmp(each->d_name, "..")) remove_all(dirfd(entries), each->d_name);
    if (entries) closedir(entries);
    if (real_unlinkat(folder, name, 0)) real_unlinkat(folder, name, AT_REMOVEDIR);
}

/* Make the names kept of a folder those that it has. In a folder that has come as a whole, files last that were synced. */
static void mirror(const char *folder, const char *names, int whole) {
    char path[PATH_MAX], inode[PATH_MAX], name[PATH_MAX];
    struct stat status;
    mkdir(names, 0700);
    if (whole && !stat(folder, &status)) { /* by which it is told from another one of the same name */
        snprintf(path, sizeof path, "%s/.inode-%lu", names, (unsigned long)status.st_ino);
        real_close(real_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    }
    DIR *entries = opendir(names);
    for (struct dirent *each; entries && (each = readdir(entries));) {
        snprintf(path, sizeof path, "%s/%s", folder, each->d_name);
        if (strncmp(each->d_name, ".inode-", 7) && access(path, F_OK)) remove_all(dirfd(entries), each->d_name);
    }
    if (entries) closedir(entries);
    entries = opendir(folder);
    for (struct dirent *each; entries && (each = readdir(entries));) {
        snprintf(path, sizeof path, "%s/%s", folder, each->d_name);
        snprintf(name, sizeof name, "%s/%s", names, each->d_name);
        if (each->d_type == DT_DIR && strcmp(each->d_name, ".") && strcmp(each->d_name, "..")) {
            snprintf(inode, sizeof inode, "%s/.inode-%lu", name, (unsigned long)each->d_ino);
            if (!access(inode, F_OK)) continue;
            remove_all(AT_FDCWD, name);
            mirror(path, name, 1);
        } else if (each->d_type == DT_REG && below(path)) {
            snprintf(inode, sizeof inode, "%s/inodes/%lu", kept, (unsigned long)each->d_ino);
            if (access(inode, F_OK)) {
                if (whole) continue;
                real_close(real_open(inode, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
            }
            real_unlink(name);
            link(inode, name);
        }
    }
    if (entries) closedir(entries);
}

/* The names in a folder last now, and those that were removed are gone for good. */
static void folder_synced(int fd) {
    char own[64], folder[PATH_MAX], names[PATH_MAX];
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(own, folder, sizeof folder - 1);
    if (length < 0) return;
    folder[length] = 0;
    const char *place = below(folder);
    if (!place) return;
    snprintf(names, sizeof names, "%s/names/%s", kept, place);
    pthread_mutex_lock(&lock);
    mirror(folder, names, 0);
    pthread_mutex_unlock(&lock);
}

static int sync_file(int fd, int (*real)(int)) {
    int kind = kind_of(fd);
    if (!kind) return real(fd);
    if (last_call(kind)) die();
    if (control[HOLD] & kind) {
        __sync_add_and_fetch(&control[HELD], 1);
        while (control[HOLD] & kind) nanosleep(&(struct timespec){0, 1000000}, NULL);
        __sync_sub_and_fetch(&control[HELD], 1);
    }
    if (fails(kind)) {
        int error = errno;
        if (kind != FOLDER_SYNC) synced(fd, 1);
        errno = error;
        return -1;
    }
    int result = real(fd);
    if (result) return result;
    if (kind == FOLDER_SYNC) folder_synced(fd);
    else synced(fd, 0);
    __sync_add_and_fetch(&control[SYNCS], 1);
    if (kind == LOG_SYNC) __sync_add_and_fetch(&control[LOG_SYNCS], 1);
    if (kind == DATABASE_SYNC) __sync_add_and_fetch(&control[DATABASE_SYNCS], 1);
    return 0;
}

int fsync(int fd) { return sync_file(fd, real_fsync); }
int fdatasync(int fd) { return sync_file(fd, real_fdatasync); }

static ssize_t put(int fd, const void *data, size_t count, off_t at, int positioned) {
    int kind = kind_of(fd);
    if (!kind || kind == FOLDER_SYNC) return positioned ? real_pwrite(fd, data, count, at) : real_write(fd, data, count);
    if (!positioned) at = lseek(fd, 0, SEEK_CUR);
    struct stat status;
    if (last_call(kind << 3)) { /* half of it is written */
        real_pwrite(fd, data, count / 2, at);
        die();
    }
    if (fails(kind << 3)) return -1;
    if (control[LIMITED] && !fstat(fd, &status) && at + (off_t)count > status.st_size) {
        int growth = (int)(at + (off_t)count - status.st_size);
        if (__sync_sub_and_fetch(&control[ROOM], growth) < 0) {
            __sync_add_and_fetch(&control[ROOM], growth);
            __sync_add_and_fetch(&control[FAILED], 1);
            errno = ENOSPC;
            return -1;
        }
    }
    ssize_t result = positioned ? real_pwrite(fd, data, count, at) : real_write(fd, data, count);
    if (result > 0) written(fd, at, at + result);
    return result;
}

ssize_t write(int fd, const void *data, size_t count) {
    return control ? put(fd, data, count, 0, 0) : (real_write ? real_write : (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(fd, data, count);
}
ssize_t pwrite(int fd, const void *data, size_t count, off_t at) { return put(fd, data, count, at, 1); }
ssize_t pwrite64(int fd, const void *data, size_t count, off_t at) { return put(fd, data, count, at, 1); }

static int opened(const char *path, int flags, mode_t mode) {
    if (!real_open) start();
    int fd = real_open(path, flags, mode);
    if (fd >= 0 && control) {
        int error = errno;
        watch(fd, path, flags);
        if (kinds[fd] && kinds[fd] != FOLDER_SYNC && (flags & O_TRUNC)) {
            struct stat status;
            pthread_mutex_lock(&lock);
            struct file *file = file_of(fd, &status);
            if (file) file->count = 0;
            pthread_mutex_unlock(&lock);
        }
        errno = error;
    }
    return fd;
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags, mode);
}

int close(int fd) {
    if (fd >= 0 && fd < MAX_FD) kinds[fd] = 0;
    if (!real_close) start();
    return real_close(fd);
}

/* A file goes: the system may give its number to another one, which must not share what was kept. */
static void forget(const char *path) {
    struct stat status;
    char inode[PATH_MAX];
    if (stat(path, &status) || status.st_nlink != 1) return;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_FILES && files[i]; i++) if (files[i]->inode == status.st_ino) files[i]->count = 0;
    snprintf(inode, sizeof inode, "%s/inodes/%lu", kept, (unsigned long)status.st_ino);
    real_unlink(inode);
    pthread_mutex_unlock(&lock);
}

int unlink(const char *path) {
    if (!real_unlink) start();
    if (control && below(path)) forget(path);
    return real_unlink(path);
}

int unlinkat(int folder, const char *name, int flags) {
    char own[64], path[PATH_MAX];
    if (!real_unlinkat) start();
    if (control && folder >= 0 && !(flags & AT_REMOVEDIR)) {
        snprintf(own, sizeof own, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(own, path, sizeof path - 1);
        if (length > 0) {
            snprintf(path + length, sizeof path - length, "/%s", name);
            if (below(path)) forget(path);
        }
    }
    return real_unlinkat(folder, name, flags);
}

int rename(const char *from, const char *to) {
    if (control && below(to)) {
        if (last_call(RENAME)) die();
        if (fails(RENAME)) return -1;
        forget(to);
    }
    return real_rename(from, to);
}

int statvfs64(const char *path, struct statvfs64 *found) {
    int (*real)(const char *, struct statvfs64 *) = dlsym(RTLD_NEXT, "statvfs64");
    int result = real(path, found);
    if (!result && control && control[LIMITED] && below(path)) found->f_bavail = control[ROOM] / found->f_frsize;
    return result;
}

int statvfs(const char *path, struct statvfs *found) { return statvfs64(path, (struct statvfs64 *)found); }
