// The attacks that need machine code; chosen by name. Prints ESCAPED on success.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

static void escaped(const char* what) {
    printf("ESCAPED: %s\n", what);
    fflush(stdout);
}

static volatile int depth_sink;
static int recurse(int depth) {
    volatile char frame[4096];
    frame[depth % 4096] = 1;
    depth_sink = depth;
    return recurse(depth + 1) + frame[0];
}

static char thread_stack[1 << 16];
static int thread_body(void*) {
    for (;;) syscall(SYS_sched_yield);
}

int main(int argc, char** argv) {
    const std::string name = argv[1];
    const char* secret = argv[2];
    if (name == "call the kernel as a 32-bit program") {
#if defined(__x86_64__)
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");  // getpid of i386
        if (result > 0) escaped("i386");
#else
        abort();
#endif
    } else if (name == "call the kernel as an x32 program") {
#if defined(__x86_64__)
        if (syscall(0x40000000 + 39) > 0) escaped("x32");
#else
        abort();
#endif
    } else if (name == "recurse for ever") {
        printf("%d\n", recurse(0));
    } else if (name == "allocate for ever") {
        std::vector<char*> kept;
        for (;;) {
            char* block = new char[8 << 20];
            memset(block, 1, 8 << 20);
            kept.push_back(block);
            if (kept.size() > 100) escaped("800 MiB");
        }
    } else if (name == "run code on the stack and heap") {
        // Allowed: what machine code can do is the kernel's decision, not where it lies.
        void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        (void)page;
        if (syscall(SYS_socket, 2, 1, 0) >= 0) escaped("socket");
    } else if (name == "fork without libc") {
#ifdef SYS_fork
        if (syscall(SYS_fork) >= 0) escaped("fork");
        if (syscall(SYS_vfork) >= 0) escaped("vfork");
#endif
        if (syscall(SYS_clone, 17, 0, 0, 0, 0) >= 0) escaped("clone");
        if (syscall(SYS_clone, 0x100 | 17, 0, 0, 0, 0) >= 0) escaped("clone of memory");
    } else if (name == "read a file without libc") {
        for (const char* path : {secret, "/etc/passwd", "/proc/1/environ", "/proc/self/root/etc/passwd"})
            if (syscall(SYS_openat, AT_FDCWD, path, O_RDONLY) >= 0 &&
                std::string(path) != "/proc/1/environ")
                escaped(path);
        struct { unsigned long flags, mode, resolve; } how = {O_RDONLY, 0, 0};
        if (syscall(437, AT_FDCWD, secret, &how, sizeof how) >= 0) escaped("openat2");
    } else if (name == "socket without libc") {
        if (syscall(SYS_socket, 2, 1, 0) >= 0) escaped("inet");
        if (syscall(SYS_socket, 16, 3, 0) >= 0) escaped("netlink");
        if (syscall(SYS_socket, 1, 1, 0) >= 0) escaped("unix");
    } else if (name == "start threads without libc for ever") {
        const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
        int started = 0;
        while (clone(thread_body, thread_stack + sizeof thread_stack, flags, nullptr) >= 0) started++;
        if (started > 20000) escaped("threads");
        syscall(SYS_exit_group, 0);
    } else if (name == "close every stream and go on") {
        for (int fd = 0; fd < 64; fd++) close(fd);
        for (;;) sleep(60);
    }
    return 0;
}
