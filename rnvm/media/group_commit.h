/* Group commit: whoever has sent something asks for a job that begins after it; one does it, all who asked share it. */
#ifndef RNVM_MEDIA_GROUP_COMMIT_H
#define RNVM_MEDIA_GROUP_COMMIT_H

#include <pthread.h>
#include <stdint.h>

struct rnvm_group_commit {
    pthread_mutex_t lock;
    pthread_cond_t turn;
    uint64_t begun;    /* jobs */
    uint64_t done;
    int running;
    int error;         /* of the first one that failed; there is none after it */
};

static inline void rnvm_group_commit_open(struct rnvm_group_commit *g)
{
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->turn, NULL);
    g->begun = g->done = 0;
    g->running = g->error = 0;
}

static inline void rnvm_group_commit_close(struct rnvm_group_commit *g)
{
    pthread_cond_destroy(&g->turn);
    pthread_mutex_destroy(&g->lock);
}

/* 0, or the errno of the job that failed: after it nobody can say what the file holds.  more: there is something that no job has
 * taken yet; else all that is waited for is one that runs. */
static inline int rnvm_group_commit_do(struct rnvm_group_commit *g, int more, int (*job)(void *), void *subject)
{
    uint64_t wanted;
    int error;
    pthread_mutex_lock(&g->lock);
    wanted = g->begun + (more ? 1 : 0); /* one that is running may have begun before ours was sent */
    while (!g->error && g->done < wanted) {
        if (g->running) {
            pthread_cond_wait(&g->turn, &g->lock);
            continue;
        }
        g->running = 1;
        g->begun++;
        pthread_mutex_unlock(&g->lock);
        error = job(subject);
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
