/* NVIDIA's driver and its management library for one card, as far as dozing uses them, for machines without a card.

   The folder $TEST_GPU has its state:
     calls     the functions that were called, a line each
     others    bytes that process 1 holds on the card
     mig       if it exists, the card is divided
     fail-F    if it exists, the function F fails with the number in it
     hold-F    while it exists, the function F does not return
     away      exists while the worker's memory is in main memory; a checkpointed process does not run */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOTAL 140000000000ULL
#define OURS 9000000000ULL

static char *path(const char *kind, const char *name)
{
    static char text[4096];
    snprintf(text, sizeof text, "%s/%s%s", getenv("TEST_GPU"), kind, name);
    return text;
}

static unsigned long long number(const char *kind, const char *name)
{
    unsigned long long value = 0;
    FILE *file = fopen(path(kind, name), "r");
    if (file) {
        if (fscanf(file, "%llu", &value) != 1) value = 0;
        fclose(file);
    }
    return value;
}

static int exists(const char *kind, const char *name) { return access(path(kind, name), F_OK) == 0; }

static int call(const char *name)
{
    FILE *file = fopen(path("calls", ""), "a");
    fprintf(file, "%s\n", name);
    fclose(file);
    while (exists("hold-", name)) usleep(2000);
    return number("fail-", name);
}

int cuInit(unsigned flags) { return call(__func__); }

int cuGetErrorName(int code, const char **name)
{
    *name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
    return 0;
}

#ifndef OLD
int cuCheckpointProcessLock(int pid, void *arguments) { return *(unsigned *)arguments ? call(__func__) : 1; }

int cuCheckpointProcessCheckpoint(int pid, void *arguments)
{
    int code = call(__func__);
    if (!code) {
        kill(pid, SIGSTOP);
        close(open(path("away", ""), O_CREAT | O_WRONLY, 0600));
    }
    return code;
}

int cuCheckpointProcessRestore(int pid, void *arguments)
{
    int code = call(__func__);
    if (!code) unlink(path("away", ""));
    return code;
}

int cuCheckpointProcessUnlock(int pid, void *arguments) { kill(pid, SIGCONT); return call(__func__); }

int cuCheckpointProcessGetState(int pid, int *state)
{
    *state = exists("away", "") ? 2 : 0;
    return 0;
}
#endif

int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)1; return 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned size) { snprintf(name, size, "NVIDIA H200"); return 0; }
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size) { snprintf(uuid, size, "GPU-1234"); return 0; }

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending)
{
    *current = *pending = exists("mig", "");
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long memory[3])
{
    memory[0] = TOTAL;
    memory[2] = number("others", "") + (exists("away", "") ? 0 : OURS);
    memory[1] = TOTAL > memory[2] ? TOTAL - memory[2] : 0;
    return 0;
}

struct process { unsigned pid; unsigned long long used; unsigned gpu, compute; };

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *processes)
{
    *count = exists("others", "");
    processes[0] = (struct process){1, number("others", ""), 0, 0};
    return 0;
}
