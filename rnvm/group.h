/* Group commit: whoever has written asks for a sync that begins after it; one does it, all who asked share it. */
#ifndef RNVM_GROUP_H
#define RNVM_GROUP_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

struct rnvm_group {
    pthread_mutex_t lock;
    pthread_cond_t turn;
    uint64_t begun;    /* syncs */
    uint64_t done;
    int running;
    int broken;        /* tests: the next sync fails with this */
    int error;         /* of the first one that failed; there is none after it */
};

static inline void rnvm_group_open(struct rnvm_group *g)
{
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->turn, NULL);
    g->begun = g->done = 0;
    g->running = g->broken = g->error = 0;
}

static inline void rnvm_group_close(struct rnvm_group *g)
{
    pthread_cond_destroy(&g->turn);
    pthread_mutex_destroy(&g->lock);
}

static inline int rnvm_group_fail(struct rnvm_group *g, int error)
{
    pthread_mutex_lock(&g->lock);
    if (!g->error) g->error = error;
    error = g->error;
    pthread_mutex_unlock(&g->lock);
    return error;
}

/* 0, or the errno of the sync that failed: after it nobody can say what the file holds. */
static inline int rnvm_group_sync(struct rnvm_group *g, int fd)
{
    uint64_t wanted;
    int error;
    pthread_mutex_lock(&g->lock);
    wanted = g->begun + 1; /* one that is running may have begun before our writes */
    while (!g->error && g->done < wanted) {
        if (g->running) {
            pthread_cond_wait(&g->turn, &g->lock);
            continue;
        }
        g->running = 1;
        g->begun++;
        error = g->broken;
        pthread_mutex_unlock(&g->lock);
        if (!error) {
            do error = fdatasync(fd) ? errno : 0;
            while (error == EINTR);
        }
        pthread_mutex_lock(&g->lock);
        g->running = 0;
        if (error)
            g->error = error;
        else
            g->done = g->begun;
        pthread_cond_broadcast(&g->turn);
    }
    error = g->error;
    pthread_mutex_unlock(&g->lock);
    return error;
}

#endif
