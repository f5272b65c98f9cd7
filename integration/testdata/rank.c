/* rank.c: one rank of an MPI program without the MPI library: what such a
 * library does when two ranks of a node meet. It speaks PMI-2 with the scheduler
 * over the descriptor PMI_FD, and hands its number on through shared memory.
 * Written after the sources of SLURM's mpi/pmi2 plugin: a greeting of PMI-1, then
 * messages whose length comes first, as six digits.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int scheduler;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* take reads n bytes, or up to a line's end where n is 0. */
static void take(char *text, size_t n, size_t room) {
    size_t got = 0;
    while (got < room - 1 && (n == 0 || got < n)) {
        if (read(scheduler, text + got, 1) != 1)
            fail("read from the scheduler");
        if (text[got++] == '\n' && n == 0)
            break;
    }
    text[got] = 0;
}

/* ask sends one message of PMI-2 and wants the answer rc=0. */
static void ask(const char *message) {
    char text[4096];
    int n = snprintf(text, sizeof text, "%6zu%s", strlen(message), message);
    if (write(scheduler, text, n) != n)
        fail("write to the scheduler");
    take(text, 6, sizeof text);
    take(text, atoi(text), sizeof text);
    if (!strstr(text, "rc=0;")) {
        fprintf(stderr, "%s was answered by %s\n", message, text);
        exit(1);
    }
}

static int number(const char *name) {
    const char *value = getenv(name);
    if (!value) {
        fprintf(stderr, "%s is not set\n", name);
        exit(1);
    }
    return atoi(value);
}

int main(void) {
    int rank = number("PMI_RANK"), size = number("PMI_SIZE");
    char text[256], name[64];
    scheduler = number("PMI_FD");

    const char *greeting = "cmd=init pmi_version=2 pmi_subversion=0\n";
    if (write(scheduler, greeting, strlen(greeting)) < 0)
        fail("write to the scheduler");
    take(text, 0, sizeof text);
    snprintf(text, sizeof text, "cmd=fullinit;pmijobid=%d;pmirank=%d;threaded=FALSE;", number("SLURM_JOB_ID"), rank);
    ask(text);

    snprintf(name, sizeof name, "/nd-rank-%d.%d", number("SLURM_JOB_ID"), number("SLURM_STEP_ID"));
    int fd = shm_open(name, O_CREAT | O_RDWR, 0600);
    if (fd < 0 || ftruncate(fd, 4096) < 0)
        fail("shm_open");
    volatile int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED)
        fail("mmap");
    shared[rank] = 100 + rank;
    ask("cmd=kvs-fence;"); /* until all ranks are here */

    printf("%d of %d:", rank, size);
    for (int i = 0; i < size; i++)
        printf(" %d", shared[i]);
    printf("\n");
    ask("cmd=kvs-fence;");
    shm_unlink(name); /* the first one succeeds */
    ask("cmd=finalize;");
    return 0;
}
