/* Group commit: a caller that has written something requests a job that begins after its write; one
 * thread does the job, and all callers that requested it share the result. */
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
    int error;         /* of the first job that failed; no job follows it */
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

/* Returns 0, or the errno of the job that failed: after that the file's content is unknown.  more:
 * there is something that no job has taken yet; otherwise the call only waits for a running job. */
static inline int rnvm_group_commit_do(struct rnvm_group_commit *g, int more, int (*job)(void *),
                                       void *subject)
{
    uint64_t wanted;
    int error;
    pthread_mutex_lock(&g->lock);
    wanted = g->begun + (more ? 1 : 0); /* one that is running may have begun before our write */
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
