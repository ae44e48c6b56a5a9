/* Programs behind a new root, and while the daemon is restarted. */
#include "life.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>

/* Opened first: survives a new root and the loss of every right. */
static void jailed(const char *root)
{
    works();
    CHECK(chroot(root) == 0 && chdir("/") == 0);
    works();
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    works();
}

/* Looked for by the parent, needed by a child behind a new root. */
static void jailed_child(const char *root)
{
    works();
    pid_t child = fork();
    if (child == 0) {
        CHECK(chroot(root) == 0 && chdir("/") == 0);
        CHECK(setgid(65534) == 0 && setuid(65534) == 0);
        works();
        _exit(7);
    }
    CHECK(ended(child) == 7);
}

/* Our descriptors lead nowhere but to the daemon's folder. Leaves the working directory as it is. */
static void no_way_out(void)
{
    int here = open(".", O_PATH | O_DIRECTORY), folders = 0;
    CHECK(here >= 0);
    for (int n = 0; n < count; n++)
        if (fchdir(ours[n]) == 0) {
            folders++;
            CHECK(inode(".") == inode(".."));
            CHECK(access("client.sock", F_OK) == 0 && access("../../../../../etc", F_OK) == -1);
        }
    CHECK(folders == 1 && fchdir(here) == 0);
}

static void jail(const char *root)
{
    CHECK(chroot(root) == 0 && chdir("/") == 0);
    no_way_out();
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
}

static void works_here(void)
{
    CHECK(mkdir("/tmp", 0777) == -1 && chdir("/nothing") == -1); /* no rights */
    CHECK(chdir("/inner") == 0);
    works();
    CHECK(inode(".") == inode("/inner") && inode("/..") == inode("/"));
    forked(works);
}

/* HAProxy's order: version, new root, no rights, child. Only the child registers. */
static void demoted(const char *root)
{
    find_ours();
    jail(root);
    forked(works_here);
}

/* Not used before the new root. */
static void jailed_first(const char *root)
{
    CHECK(chroot(root) == 0 && chdir("/") == 0);
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    works();
}

/* What a container may forbid: a mount of one's own, and a thread with a root of its own. */
static void forbid(void)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_open_tree, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unshare, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof rules / sizeof *rules, rules};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

/* Then /proc is the way, if the new root has it. */
static void confined(const char *root)
{
    char proc[4096];
    snprintf(proc, sizeof proc, "%s/proc", root);
    CHECK(unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    CHECK(mkdir(proc, 0755) == 0 && mount("/proc", proc, NULL, MS_BIND | MS_REC, NULL) == 0);
    forbid();
    works();
    CHECK(chroot(root) == 0 && chdir("/") == 0);
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    forked(works);
}

/* The daemon goes and comes again, and no call fails. */
static void outliving(void)
{
    int first = 0;
    struct in_tproxy it;
    int fd = new_socket();
    for (int n = 0; n < 4000 && access("done", F_OK) != 0; n++) {
        errno = 77; /* a call that succeeds leaves it, whatever was tried for it */
        CHECK(get(fd, VERSION, &it) == 0 && errno == 77);
        if (n == 0)
            first = open_now();
        usleep(5000);
    }
    CHECK(access("done", F_OK) == 0);
    CHECK(open_now() == first); /* the old channel is closed */
    for (int other = 3; other < 256; other++)
        close(other); /* the new channel is spared, too */
    works();
}

/* The same of a child behind a new root. */
static void outliving_jailed(void)
{
    find_ours();
    jail(".");
    forked(outliving);
}

int main(int argc, char **argv)
{
    alarm(25);
    const char *what = argc > 1 ? argv[1] : "", *root = argc > 2 ? argv[2] : ".";
    if (strcmp(what, "jailed") == 0)
        jailed(root);
    else if (strcmp(what, "jailed_child") == 0)
        jailed_child(root);
    else if (strcmp(what, "outliving") == 0)
        outliving();
    else if (strcmp(what, "outliving_jailed") == 0)
        outliving_jailed();
    else if (strcmp(what, "confined") == 0)
        confined(root);
    else if (strcmp(what, "demoted") == 0)
        demoted(root);
    else if (strcmp(what, "jailed_first") == 0)
        jailed_first(root);
    else
        CHECK(!"a life of this name");
    return 0;
}
