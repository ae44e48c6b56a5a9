/* Forks while other threads call: parent and child both get on. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xtproxy.h>

static xtproxy *x;
static int fd;
static volatile int stop;

static void *caller(void *unused)
{
    (void)unused;
    while (!stop)
        if (xtproxy_alloc(x, fd) != 0) {
            fprintf(stderr, "thread: %s\n", xtproxy_error());
            exit(1);
        }
    return NULL;
}

/* Two calls, so that the second finds the channel that the first opened. */
static int child(void)
{
    unsigned int version = 0;

    alarm(20);
    if (xtproxy_alloc(x, fd) != 0 || xtproxy_version(x, fd, &version) != 0) {
        fprintf(stderr, "child: %s\n", xtproxy_error());
        return 1;
    }
    xtproxy_close(x);
    return version == 0x02000006 ? 0 : 2;
}

int main(int argc, char **argv)
{
    pthread_t threads[4];
    int i, status, failed = 0;

    x = argc == 2 ? xtproxy_open(argv[1]) : NULL;
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (x == NULL)
        return 1;
    alarm(60);
    for (i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, caller, NULL);
    for (i = 0; i < 20; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(child());
        if (waitpid(pid, &status, 0) != pid || status != 0)
            failed++;
    }
    stop = 1;
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    if (xtproxy_alloc(x, fd) != 0)
        failed++;
    xtproxy_close(x);
    printf("failed: %d\n", failed);
    return 0;
}
